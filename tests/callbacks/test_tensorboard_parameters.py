"""Histograms, images and embeddings of the parameters."""

from __future__ import annotations

import importlib
import io
import logging
import math
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image

import fitbus
from fitbus import BatchEnd, Supervised
from fitbus.callbacks import Callback, Logs, TensorBoard
from fitbus.callbacks._tensorboard_summaries import weight_pixels
from fitbus.errors import InvalidArgumentError
from fitbus.testing import EventRecorder, ToyProblem

from ._tensorboard_reading import Array, Records, Toy, folders

pytestmark = pytest.mark.anyio


def with_words(problem: ToyProblem) -> fitbus.Trainer:
    """A trainer of parameters in a nested tree, with a table that is an embedding by its name."""

    def apply(params: Any, x: Any) -> Any:
        words = params["embedding"]["table"].sum() + params["head"]["codes"].sum()
        return x @ params["head"]["w"] + params["bias"] + words

    task = Supervised(apply, lambda p, y: (p - y) ** 2, optax.sgd, learning_rate=0.01)
    random = np.random.default_rng(0)
    params = {
        "embedding": {"table": random.normal(size=(5, 2)).astype(np.float32)},
        "head": {
            "w": np.zeros(3, np.float32),
            "codes": jnp.asarray(random.normal(size=(2, 4)), jnp.bfloat16),
        },
        "bias": np.zeros((), np.float32),
    }
    return fitbus.Trainer(task, params)


@pytest.fixture(scope="module")
def toy() -> Toy:
    """One trainer for all."""
    return Toy(with_words)


PATHS = ("bias", "embedding/table", "head/codes", "head/w")


class Keeps(Callback):
    """Keeps the parameters with which each epoch ended."""

    def __init__(self) -> None:
        self.weights: list[dict[str, Array]] = []

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        arrays = self.model.get_weights()
        self.weights.append(dict(zip(PATHS, arrays, strict=True)))


def as_tensorboard_counts(array: Array) -> Array:
    """The histogram that TensorBoard's own code makes."""
    summaries = importlib.import_module("tensorboard.plugins.histogram.summary_v2")
    tensors = importlib.import_module("tensorboard.util.tensor_util")
    made = summaries.histogram_pb("tag", array.astype(np.float64))
    found: Array = tensors.make_ndarray(made.value[0].tensor)
    return found


async def test_each_parameter_has_a_histogram_by_its_path_when_it_is_due(
    toy: Toy, tmp_path: Path
) -> None:
    keeps = Keeps()
    await toy.fit(TensorBoard(tmp_path, histogram_freq=2), keeps, epochs=4)
    found = Records(tmp_path / "train")
    tags = {tag for tag, points in found.tags.items() if points[0].plugin == "histograms"}
    assert tags == {f"{path}/histogram" for path in PATHS}
    for path in PATHS:
        points = found.tags[f"{path}/histogram"]
        assert [point.step for point in points] == [0, 2]
        for point in points:
            wanted = as_tensorboard_counts(keeps.weights[point.step][path])
            np.testing.assert_allclose(point.value, wanted, rtol=1e-6)
    assert found.starting("head/w/image") == set()


async def test_images_of_parameters_come_with_their_histograms(toy: Toy, tmp_path: Path) -> None:
    await toy.fit(TensorBoard(tmp_path, histogram_freq=1, write_images=True))
    found = Records(tmp_path / "train")
    images = {tag for tag, points in found.tags.items() if points[0].plugin == "images"}
    assert images == {f"{path}/image" for path in PATHS if path != "bias"}
    assert found.steps("embedding/table/image") == [0, 1]
    width, height, png = found.tags["embedding/table/image"][0].value
    assert (int(width), int(height)) == (5, 2)  # on its longer side
    assert Image.open(io.BytesIO(png)).size == (5, 2)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # it spoils its trainer
async def test_what_is_not_finite_is_left_out_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    toy = Toy(with_words)
    board = TensorBoard(tmp_path, histogram_freq=1)
    x = np.full((16, 3), math.nan, np.float32)
    with caplog.at_level(logging.WARNING, "fitbus"):
        await toy.trainer.fit(x, toy.problem.y[:16], batch_size=16, callbacks=[board])
    counts = Records(tmp_path / "train").tags["head/w/histogram"][0].value
    assert counts.shape == (30, 3)
    assert counts.sum() == 0
    assert "3 of the 3 values of 'head/w' aren't finite" in caplog.text


@pytest.mark.parametrize(
    "array",
    [
        np.linspace(-3, 5, 1000),
        np.full(7, 2.5),
        np.arange(12, dtype=np.int32),
        np.array([True, False, True]),
        np.array(3.0),
        np.zeros(0),
        np.array([1.0, np.nextafter(1.0, 2.0)]),
    ],
    ids=["many", "one value", "whole numbers", "booleans", "a scalar", "nothing", "two neighbours"],
)
def test_any_numbers_have_the_histogram_that_tensorboard_gives_them(
    array: Array, tmp_path: Path
) -> None:
    TensorBoard(tmp_path).histogram("any", array, 3)
    point = Records(tmp_path / "train").tags["any"][0]
    assert (point.step, point.plugin) == (3, "histograms")
    wanted = as_tensorboard_counts(array)
    if array.size != 2:
        np.testing.assert_allclose(point.value, wanted, atol=1e-12)
    assert point.value[:, 2].sum() == array.size


def test_huge_and_infinite_values_do_no_harm_to_a_histogram(tmp_path: Path) -> None:
    TensorBoard(tmp_path).histogram("any", np.array([-1.7e308, 1.7e308, 0, math.inf]), 0)
    counts = Records(tmp_path / "train").tags["any"][0].value
    assert counts[:, 2].sum() == 3
    assert np.isfinite(counts).all()


@pytest.mark.parametrize(
    ("shape", "pixels"),
    [
        ((6,), (1, 6, 1, 1)),
        ((1, 6), (1, 6, 1, 1)),
        ((2, 6), (1, 2, 6, 1)),
        ((6, 2), (1, 2, 6, 1)),
        ((3, 4, 5), (5, 3, 4, 1)),
        ((7, 4, 5, 3), (7, 4, 5, 3)),
        ((7, 4, 5, 2), None),
        ((2, 2, 2, 2, 3), None),
        ((), None),
        ((0, 3), None),
    ],
)
def test_shapes_become_images_as_in_keras(
    shape: tuple[int, ...], pixels: tuple[int, ...] | None
) -> None:
    found = weight_pixels(np.arange(math.prod(shape), dtype=np.float32).reshape(shape))
    assert (None if found is None else found.shape) == pixels
    if found is not None:
        assert (found.min(), found.max(), found.dtype) == (0, 255, np.uint8)


def test_of_an_image_the_least_value_is_black_and_what_is_not_finite_is_at_an_end() -> None:
    found = weight_pixels(np.array([[-2.0, 0.0, math.nan], [2.0, math.inf, -math.inf]]))
    assert found is not None
    assert found[0, :, :, 0].tolist() == [[0, 128, 0], [255, 255, 0]]
    constant = weight_pixels(np.full((2, 2), 3.0))
    assert constant is not None
    assert not constant.any()


def projector(place: Path) -> dict[str, Any]:
    """What the projector is told, read as it reads it."""
    kinds = importlib.import_module("tensorboard.plugins.projector.projector_config_pb2")
    text_format = importlib.import_module("google.protobuf.text_format")
    text = (place / "projector_config.pbtxt").read_text("utf-8")
    config = text_format.Parse(text, kinds.ProjectorConfig())
    return {embedding.tensor_name: embedding for embedding in config.embeddings}


async def test_embeddings_are_tables_that_the_projector_reads(toy: Toy, tmp_path: Path) -> None:
    keeps = Keeps()
    labels = {"codes": "labels of codes.tsv"}
    board = TensorBoard(tmp_path, embeddings_freq=2, embeddings_metadata=labels)
    await toy.fit(board, keeps, epochs=4)
    plugin = importlib.import_module("tensorboard.plugins.projector.projector_plugin")
    found = projector(tmp_path)
    assert set(found) == {"embedding/table", "head/codes"}
    for path, embedding in found.items():
        wanted = keeps.weights[2][path].astype(np.float32)
        config = str(tmp_path / "projector_config.pbtxt")
        file = plugin._rel_to_abs_asset_path(embedding.tensor_path, config)
        np.testing.assert_allclose(plugin._read_tensor_tsv_file(file), wanted, rtol=1e-6)
        assert tuple(embedding.tensor_shape) == wanted.shape
        assert embedding.metadata_path == ("" if path == "embedding/table" else labels["codes"])
    assert folders(tmp_path / "train" / "embeddings") == {
        f"{name}-{epoch}.tsv" for name in ("embedding.table", "head.codes") for epoch in (0, 2)
    }
    assert Records(tmp_path / "train").starting("embedding/table/histogram") == set()


async def test_one_file_of_labels_may_be_for_all_embeddings(toy: Toy, tmp_path: Path) -> None:
    board = TensorBoard(tmp_path, embeddings_freq=1, embeddings_metadata='of "all" ä.tsv')
    await toy.fit(board)
    assert [each.metadata_path for each in projector(tmp_path).values()] == ['of "all" ä.tsv']


async def test_labels_of_what_is_no_matrix_are_refused_before_the_first_step(
    toy: Toy, tmp_path: Path
) -> None:
    recorder = EventRecorder()
    board = TensorBoard(tmp_path, embeddings_freq=1, embeddings_metadata={"bias": "labels.tsv"})
    with pytest.raises(InvalidArgumentError, match=r"embeddings_metadata.*'embedding/table'"):
        await toy.fit(board, recorder)
    assert recorder.of(BatchEnd) == []


async def test_that_there_is_no_embedding_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "fitbus"):
        await Toy().fit(TensorBoard(tmp_path, embeddings_freq=1))
    assert "there is no embedding" in caplog.text
    assert folders(tmp_path) == {"train"}


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # Keras compiles for long
async def test_a_keras_model_has_its_own_paths_and_its_layers(tmp_path: Path) -> None:
    keras = pytest.importorskip("keras")
    layers = [keras.layers.Input((3,)), keras.layers.BatchNormalization(), keras.layers.Dense(1)]
    model = keras.Sequential(layers)
    model.compile("sgd", "mse")
    toy = Toy(lambda _: fitbus.Trainer(fitbus.keras.KerasTask(model)))
    await toy.fit(TensorBoard(tmp_path, histogram_freq=1))
    found = Records(tmp_path / "train")
    tags = {tag for tag, points in found.tags.items() if points[0].plugin == "histograms"}
    assert tags == {f"{weight.path}/histogram" for weight in model.weights}
    assert len(tags) == 6
    plugin = importlib.import_module("tensorboard.plugins.graph.keras_util")
    assert found.tags["keras"][0].plugin == "graph_keras_model"
    json = importlib.import_module("json").loads(found.tags["keras"][0].value.item())
    names = {node.name for node in plugin.keras_model_to_graph_def(json).node}
    assert f"{model.name}/{model.layers[-1].name}" in names
