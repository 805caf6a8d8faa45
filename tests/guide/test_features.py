"""Drawing intermediate features after each epoch."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest

import fitbus
from fitbus.examples._network import hidden
from fitbus.examples.keras_guide import DrawFeatures

pytestmark = pytest.mark.anyio
Array = np.ndarray[Any, Any]


async def test_each_epoch_leaves_a_png_of_its_own_features(
    trainer: fitbus.Trainer, examples: tuple[Array, Array], tmp_path: Path
) -> None:
    drawing = DrawFeatures(hidden, examples[0][:16], tmp_path)
    await trainer.fit(*examples, batch_size=500, epochs=2, callbacks=[drawing])
    images = read_images(tmp_path)
    assert list(images) == ["features-01.png", "features-02.png"]
    first, second = images.values()
    for image in (first, second):  # the middle is the picture itself, not its frame
        assert len(np.unique(image[150:250, 150:250].reshape(-1, 3), axis=0)) > 4
    assert not np.array_equal(first[150:250, 150:250], second[150:250, 150:250])


def read_images(directory: Path) -> dict[str, Array]:
    """The colours of all files, by name; each must be a PNG of 400 by 400 pixels."""
    images: dict[str, Array] = {}
    for path in sorted(directory.iterdir()):
        head = path.read_bytes()[:24]
        assert head[:8] == b"\x89PNG\r\n\x1a\n"
        assert struct.unpack(">II", head[16:]) == (400, 400)
        images[path.name] = np.asarray(matplotlib.image.imread(path))[..., :3]
        assert images[path.name].shape == (400, 400, 3)
    return images


async def test_the_features_are_those_of_the_epochs_weights(
    trainer: fitbus.Trainer, examples: tuple[Array, Array], by_epoch: Any, tmp_path: Path
) -> None:
    drawn: list[Array] = []

    def kept(weights: Any, samples: Array) -> Array:
        drawn.append(hidden(weights, samples))
        return drawn[-1]

    samples = examples[0][:16]
    drawing = DrawFeatures(kept, samples, tmp_path)
    await trainer.fit(*examples, batch_size=500, epochs=2, callbacks=[by_epoch, drawing])
    assert len(drawn) == 2
    for found, weights in zip(drawn, by_epoch.weights, strict=True):
        assert found.shape == (16, 16)
        np.testing.assert_array_equal(found, hidden(weights, samples))
