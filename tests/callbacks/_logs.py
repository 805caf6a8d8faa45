"""Callbacks that change the logs of an epoch, and the CSV file of them as it is read back."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fitbus.callbacks import Callback, Logs

ONE = {"loss": 1.0, "val_loss": 2.0}


class Only(Callback):
    """Replaces the logs of each epoch; to be put before what reads them."""

    def __init__(self, *by_epoch: Mapping[str, Any]) -> None:
        self._by_epoch = by_epoch

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        assert logs is not None
        logs.clear()
        logs.update(self._by_epoch[epoch])


class Adds(Callback):
    """Adds a name to the logs of each epoch, but for those whose value is None."""

    def __init__(self, name: str, values: Sequence[Any]) -> None:
        self._name, self._values = name, values

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        assert logs is not None
        if self._values[epoch] is not None:
            logs[self._name] = self._values[epoch]


def rows(path: Path) -> list[list[str]]:
    """The rows of a CSV file."""
    with path.open(newline="") as file:
        return list(csv.reader(file))


def lines(path: Path) -> list[str]:
    """Its lines, each of which must end as Keras' do."""
    *found, last = path.read_bytes().decode().split("\r\n")
    assert last == ""
    assert not any("\n" in line for line in found)
    return found
