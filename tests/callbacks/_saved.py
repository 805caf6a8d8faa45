"""What the tests of checkpoints share: one that saves weights, and what is in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fitbus.callbacks import ModelCheckpoint
from fitbus.checkpoints import NumberedStates

VALLEY = [4, 3, 3, 5, 2, 2.5]


def weights(folder: Path, name: str = "{epoch}", **arguments: Any) -> ModelCheckpoint:
    """One that saves weights, watching the loss."""
    return ModelCheckpoint(
        folder / f"{name}.safetensors", "loss", save_weights_only=True, **arguments
    )


def names(folder: Path) -> list[str]:
    """What is in a folder, without its ending."""
    return sorted(path.name.removesuffix(".safetensors") for path in folder.iterdir())


def numbers(folder: Path) -> list[int]:
    """Which states there are, in the order in which they were written."""
    with NumberedStates(folder) as states:
        return states.numbers()
