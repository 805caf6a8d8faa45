"""What the tests of TensorBoard share: its files, read by its own reader, and one trainer."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import fitbus
from fitbus.testing import ToyProblem, toy_problem

Array = np.ndarray[Any, Any]


class Record(NamedTuple):
    """A point of a curve."""

    step: int
    value: Any
    time: float
    plugin: str


class Records:
    """All that a directory of event files holds, as TensorBoard itself reads it."""

    def __init__(self, folder: Path) -> None:
        files = importlib.import_module("tensorboard.backend.event_processing.event_file_loader")
        tensors = importlib.import_module("tensorboard.util.tensor_util")
        self.graphs: list[Any] = []
        self.tags: dict[str, list[Record]] = {}
        plugins: dict[str, str] = {}
        for path in sorted(folder.glob("*tfevents*")):
            events = list(files.EventFileLoader(str(path)).Load())
            assert [event.file_version for event in events if event.file_version] == [
                events[0].file_version
            ]
            for event in events:
                if event.graph_def:
                    kinds = importlib.import_module("tensorboard.compat.proto.graph_pb2")
                    self.graphs.append(kinds.GraphDef.FromString(event.graph_def))
                for value in event.summary.value:
                    if value.tag == "__run_graph__":  # the graph again, in another form
                        continue
                    name = value.metadata.plugin_data.plugin_name
                    plugin = plugins.setdefault(value.tag, name)
                    found = tensors.make_ndarray(value.tensor)
                    record = Record(event.step, found, event.wall_time, plugin)
                    self.tags.setdefault(value.tag, []).append(record)

    def scalars(self, tag: str) -> list[tuple[int, float]]:
        """The points of a scalar."""
        assert {record.plugin for record in self.tags[tag]} == {"scalars"}
        return [(record.step, float(record.value)) for record in self.tags[tag]]

    def steps(self, tag: str) -> list[int]:
        """Where it has points."""
        return [record.step for record in self.tags[tag]]

    def starting(self, prefix: str) -> set[str]:
        """The tags that begin so."""
        return {tag for tag in self.tags if tag.startswith(prefix)}


def folders(place: Path) -> set[str]:
    """The files and directories in a directory; none if there is none."""
    return {path.name for path in place.iterdir()} if place.exists() else set()


def as_float32(value: float) -> float:
    """What is left of a number in a curve."""
    return float(np.float32(value))


class Toy:
    """One trainer for a module's tests, so that its steps are compiled once; 4 batches an epoch."""

    def __init__(self, make: Callable[[ToyProblem], fitbus.Trainer] | None = None) -> None:
        self.problem = toy_problem(64, 3)
        make = make or (lambda problem: fitbus.Trainer(problem.task, problem.params))
        self.trainer = make(self.problem)

    async def fit(self, *callbacks: Any, **arguments: Any) -> fitbus.History:
        """Trains for two epochs, unless told otherwise."""
        given: dict[str, Any] = {"batch_size": 16, "epochs": 2, "callbacks": callbacks, **arguments}
        return await self.trainer.fit(self.problem.x, self.problem.y, **given)

    async def evaluate(self, *callbacks: Any) -> dict[str, float]:
        """Evaluates."""
        problem = self.problem
        return await self.trainer.evaluate(
            problem.x, problem.y, batch_size=16, callbacks=list(callbacks)
        )
