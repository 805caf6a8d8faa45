"""Every example runs as it is, says what it shows, and is listed."""

from __future__ import annotations

import importlib
import pkgutil
import tempfile
from pathlib import Path

import pytest

import fitbus.examples

MODULES = [
    module.name
    for module in pkgutil.iter_modules(fitbus.examples.__path__)
    if not module.name.startswith("_")
]
SMALL = [
    "accumulated_gradients",
    "batch_statistics",
    "beside_other_work",
    "custom_event_and_control",
    "keras_guide",
    "keras_model",
    "loop_by_hand",
    "service_fastapi",
    "service_starlette",
    "two_optimizers",
]


def test_all_examples_are_listed_in_the_package_and_run_here_or_as_the_demo() -> None:
    assert [name for name in MODULES if name != "demo"] == SMALL
    for name in MODULES:
        assert f"- `{name}`:" in (fitbus.examples.__doc__ or "")


@pytest.mark.parametrize("name", SMALL)
def test_an_example_says_first_what_it_shows_and_how_to_run_it(name: str) -> None:
    text = importlib.import_module(f"fitbus.examples.{name}").__doc__ or ""
    assert text.startswith("Shows ")
    assert f"python -m fitbus.examples.{name}" in text


# What each one prints, in part, in this order.
PRINTS = {
    "accumulated_gradients": ["at once : 80 batches", "in parts: 320 batches"],
    "batch_statistics": ["val_loss:", "running means"],
    "beside_other_work": ["epoch 4: loss", "<History of 5 epochs", "the event loop was at most"],
    "custom_event_and_control": ["example.LossHalved", "example.ShrinkWeights", "decoded: True"],
    "loop_by_hand": ["faster: Applied(step=0", "unknown: Pause was rejected", "stops it"],
    "two_optimizers": ["the points made lie about", "discriminator is 0.0100", "is 0.0200"],
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] * (n == "two_optimizers")) for n in PRINTS],
)
def test_main_prints_what_it_found(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    importlib.import_module(f"fitbus.examples.{name}").main()
    printed = capsys.readouterr().out
    place = 0
    for part in PRINTS[name]:
        place = printed.find(part, place)
        assert place >= 0, f"{part!r} is missing in:\n{printed}"


@pytest.mark.slow
def test_main_of_the_keras_guide_goes_through_all_callbacks(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    before = tempfile.tempdir
    tempfile.tempdir = str(tmp_path)  # where its files go
    try:
        importlib.import_module("fitbus.examples.keras_guide").main()
    finally:
        tempfile.tempdir = before
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "train begin []"
    assert "predict end []" in lines
    assert "epoch 12: the learning rate is 0.001" in lines
    assert any(line.endswith(": stopped early") for line in lines)
    (directory,) = tmp_path.iterdir()
    assert lines[-1] == f"18 files are in {directory}"
    names = sorted(path.name for path in directory.iterdir())
    assert names == [
        *(f"features-{n:02d}.png" for n in range(1, 16)),
        *(f"weights-{n:02d}.npz" for n in (5, 10, 15)),
    ]
