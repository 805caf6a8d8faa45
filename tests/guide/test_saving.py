"""Saving the weights at intervals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import fitbus
from fitbus.callbacks import Callback, Logs
from fitbus.examples.keras_guide import SaveAtIntervals

pytestmark = pytest.mark.anyio
Array = np.ndarray[Any, Any]


async def test_every_second_epoch_leaves_a_file_of_its_weights(
    trainer: fitbus.Trainer, examples: tuple[Array, Array], by_epoch: Any, tmp_path: Path
) -> None:
    saving = SaveAtIntervals(str(tmp_path / "new" / "weights-{epoch:02d}.npz"), every=2)
    await trainer.fit(*examples, batch_size=500, epochs=5, callbacks=[by_epoch, saving])
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [
        "weights-02.npz",
        "weights-04.npz",
    ]
    for epoch in (2, 4):
        with np.load(tmp_path / "new" / f"weights-{epoch:02d}.npz") as file:
            saved = [file[name] for name in sorted(file.files)]
        kept = by_epoch.weights[epoch - 1]
        assert [leaf.tobytes() for leaf in saved] == [leaf.tobytes() for leaf in kept]


async def test_a_saved_file_can_be_loaded_in_a_later_fit(
    trainer: fitbus.Trainer, examples: tuple[Array, Array], by_epoch: Any, tmp_path: Path
) -> None:
    class Load(Callback):
        def on_train_end(self, logs: Logs | None = None) -> None:
            self.model.load_weights(tmp_path / "1.npz")

    saving = SaveAtIntervals(str(tmp_path / "{epoch}.npz"), every=1)
    await trainer.fit(*examples, batch_size=500, epochs=2, callbacks=[by_epoch, saving])
    await trainer.fit(*examples, batch_size=500, epochs=1, callbacks=[Load()])
    for found, first in zip(
        jax.tree.leaves(trainer.state.params), by_epoch.weights[0], strict=True
    ):
        assert np.asarray(found).tobytes() == first.tobytes()
