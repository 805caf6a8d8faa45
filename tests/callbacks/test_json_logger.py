"""A line of JSON for each event: which, in what order, and what becomes of the file."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest

import fitbus
from fitbus.callbacks import Callback, JSONLogger, LambdaCallback, Logs
from fitbus.errors import InvalidArgumentError
from fitbus.testing import EventRecorder, toy_problem
from fitbus.train import Position, Restored

pytestmark = pytest.mark.anyio

PROBLEM = toy_problem(64)
TRAINER = fitbus.Trainer(PROBLEM.task, PROBLEM.params)


class Drawn(fitbus.Event):
    """An event of a user's."""

    values: Any


async def fit(*callbacks: Any, **arguments: Any) -> fitbus.History:
    return await TRAINER.fit(PROBLEM.x, PROBLEM.y, batch_size=16, callbacks=callbacks, **arguments)


def read(path: Path, *types: type[fitbus.Event]) -> list[fitbus.Event]:
    """The events of its lines."""
    codec = fitbus.Codec(*types)
    *lines, last = path.read_bytes().split(b"\n")
    assert last == b""
    events = [codec.from_json(line) for line in lines]
    assert all(isinstance(event, fitbus.Event) for event in events)
    return events  # type: ignore[return-value]  # checked above


def names(events: list[fitbus.Event]) -> list[str]:
    return [type(event).__name__ for event in events]


async def test_all_events_of_a_training_are_there_in_order(tmp_path: Path) -> None:
    """Equal to those that a handler saw, and all written when `fit` returns."""
    path, recorder = tmp_path / "log.jsonl", EventRecorder()
    await fit(JSONLogger(str(path)), recorder, epochs=2, validation_split=0.5)
    assert read(path) == recorder.events
    assert [event.seq for event in recorder.events] == list(range(len(recorder.events)))
    assert {"TestBatchEnd", "BatchBegin", "EpochEnd"} <= set(recorder.names)


async def test_evaluations_and_predictions_too_without_their_outputs(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    logger = JSONLogger(path, append=True)
    await TRAINER.evaluate(PROBLEM.x, PROBLEM.y, batch_size=64, callbacks=[logger])
    await TRAINER.predict(PROBLEM.x, batch_size=64, callbacks=[logger])
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    assert [line["type"] for line in lines] == [
        *("TestBegin", "TestBatchBegin", "TestBatchEnd", "TestEnd"),
        *("PredictBegin", "PredictBatchBegin", "PredictBatchEnd", "PredictEnd"),
    ]
    assert "outputs" not in lines[6]
    assert lines[6]["batch"] == 0


async def test_nan_is_spelled_and_each_line_is_strict_json(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    x, logger = np.full_like(PROBLEM.x, math.nan), JSONLogger(path, types=[fitbus.TestEnd])
    await TRAINER.evaluate(x, PROBLEM.y, batch_size=64, callbacks=[logger])

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    (line,) = path.read_bytes().splitlines()
    assert json.loads(line, parse_constant=refuse)["logs"]["loss"] == "NaN"
    (event,) = read(path)
    assert isinstance(event, fitbus.TestEnd)
    assert math.isnan(event.logs["loss"])


async def test_types_say_which_and_every_thins_out_batches_only(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    logger = JSONLogger(path, types=[fitbus.BatchEnd, fitbus.EpochEnd], every=2)
    await fit(logger, epochs=2)
    found = [(type(e).__name__, getattr(e, "batch", None)) for e in read(path)]
    epoch = [("BatchEnd", 1), ("BatchEnd", 3), ("EpochEnd", None)]
    assert found == epoch * 2


async def test_events_of_ones_own_are_written_where_asked_for(tmp_path: Path) -> None:
    """And not otherwise: they may hold what can't be encoded."""
    first, second = tmp_path / "1.jsonl", tmp_path / "2.jsonl"

    class Draws(Callback):
        def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
            assert self.run is not None
            self.run.publish(Drawn(values=[1, 2]))

    types: list[type[fitbus.Event]] = [*JSONLogger.default_types, Drawn]
    await fit(JSONLogger(first), JSONLogger(second, types=types), Draws())
    assert Drawn not in map(type, read(first, Drawn))
    (drawn,) = (event for event in read(second, Drawn) if isinstance(event, Drawn))
    assert drawn.values == [1, 2]


async def test_one_that_cannot_be_encoded_ends_the_training_and_takes_no_other_with_it(
    tmp_path: Path,
) -> None:
    path = tmp_path / "log.jsonl"

    class Draws(Callback):
        def on_train_begin(self, logs: Logs | None = None) -> None:
            assert self.run is not None
            self.run.publish(Drawn(values=object()))

    with pytest.raises(TypeError, match="a object can't be encoded"):
        await fit(JSONLogger(path, types=[fitbus.Event]), Draws(), epochs=100)
    assert names(read(path))[0] == "TrainBegin"


async def test_controls_are_told_of_and_by_name_if_they_cannot_leave_the_process(
    tmp_path: Path,
) -> None:
    path = tmp_path / "log.jsonl"

    def steer(event: fitbus.EpochEnd) -> list[fitbus.Control]:
        return [fitbus.SetLearningRate(0.05), fitbus.UpdateState(lambda state: state)]

    types = [fitbus.ControlApplied]
    await fit(steer, JSONLogger(path, types=types))
    controls = [event.control for event in read(path) if isinstance(event, fitbus.ControlApplied)]
    assert controls == [
        fitbus.SetLearningRate(0.05),
        fitbus.UnknownControl("UpdateState (in its process only)", {}),
    ]


async def test_it_is_used_again_and_begins_the_file_anew_unless_told_to_append(
    tmp_path: Path,
) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text("old\n")
    logger = JSONLogger(path, types=[fitbus.TrainBegin, fitbus.TrainEnd])
    both = ["TrainBegin", "TrainEnd"]
    for _ in range(2):
        await fit(logger)
        assert names(read(path)) == both
    await fit(JSONLogger(path, types=[fitbus.TrainBegin, fitbus.TrainEnd], append=True))
    assert names(read(path)) == both * 2


async def test_a_training_from_a_backup_goes_on_with_the_file(tmp_path: Path) -> None:
    """And one that looks for a backup without finding one doesn't."""
    path = tmp_path / "log.jsonl"
    logger = JSONLogger(path, types=[fitbus.TrainBegin, fitbus.EpochEnd])
    found: list[Restored | None] = [None, Restored(None, Position(epoch=1)), None]

    class Restores(Callback):
        def restore(self) -> Restored | None:
            return found.pop(0)

    for counts in ([2], [2, 1], [2]):
        await fit(logger, Restores(), epochs=2)
        events = read(path)
        assert names(events) == [
            name for count in counts for name in ["TrainBegin", *["EpochEnd"] * count]
        ]
    assert logger.state_dict() == {}
    logger.load_state_dict({})


async def test_a_cancelled_training_is_told_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    logger = JSONLogger(path)
    with anyio.CancelScope() as scope:

        class Cancels(Callback):
            async def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
                scope.cancel()

        await fit(logger, Cancels(), epochs=1000)
    assert scope.cancelled_caught
    last = read(path)[-1]
    assert isinstance(last, fitbus.TrainEnd)
    assert last.reason == "cancelled"


async def test_a_failed_training_is_told_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"

    def fails(epoch: int, logs: Logs) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fit(JSONLogger(path), LambdaCallback(on_epoch_end=fails))
    found = read(path)
    assert {"HandlerFailed", "TrainEnd"} <= set(names(found))


async def test_a_full_disk_fails_the_training_and_names_the_file() -> None:
    with pytest.raises(OSError, match=r"No space left on device: '/dev/full'"):
        await fit(JSONLogger("/dev/full"), epochs=1000)


async def test_or_only_the_logger() -> None:
    history = await fit(JSONLogger("/dev/full", on_error="unsubscribe"), epochs=2)
    assert history.epoch == [0, 1]


async def test_it_lets_training_run_ahead(tmp_path: Path) -> None:
    """Its one subscription is concurrent and lossless, and it has no hook."""
    async with TRAINER.run(
        PROBLEM.x, PROBLEM.y, callbacks=[JSONLogger(tmp_path / "log.jsonl")]
    ) as run:
        await run.wait()
    assert run.report is not None
    (only,) = run.report.subscribers
    assert (only.name, only.dropped, only.undelivered) == ("JSONLogger", 0, 0)


BAD: dict[str, list[Any]] = {
    "path": [None, "", 3],
    "types": [[], 3, [int], fitbus.EpochEnd, ["EpochEnd"], [fitbus.StopTraining]],
    "every": [0, -1, 1.5, True, "2"],
    "append": [None, 1],
    "on_error": ["ignore", None],
}


@pytest.mark.parametrize(("argument", "value"), [(k, v) for k, vs in BAD.items() for v in vs])
def test_it_refuses(argument: str, value: Any) -> None:
    given: dict[str, Any] = {"path": "log.jsonl", argument: value}
    with pytest.raises(InvalidArgumentError, match=rf"^JSONLogger\.{argument}: found "):
        JSONLogger(**given)
