"""The logs that hooks get: of whom each event's are, and who sees what is added to them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fitbus
from fitbus import BatchEnd, EpochEnd, TestEnd, TrainEnd
from fitbus.callbacks import Callback, History, Logs
from fitbus.testing import EventRecorder, toy_problem

pytestmark = pytest.mark.anyio

PROBLEM = toy_problem(16, 2)
X, Y = PROBLEM.x, PROBLEM.y
TRAINER = fitbus.Trainer(PROBLEM.task, PROBLEM.params)
METRICS = ["loss", "mean_absolute_error"]

FIT_HOOKS = """
    on_train_begin on_epoch_begin on_train_batch_begin on_train_batch_end
    on_test_begin on_test_batch_begin on_test_batch_end on_test_end on_epoch_end on_train_end
"""


class Marks(Callback):
    """In each hook it notes what it finds in the logs, then adds its own name to them."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.found: list[tuple[str, list[str]]] = []
        self.logs: list[Logs] = []

    def mark(self, hook: str, logs: Logs | None) -> None:
        assert logs is not None
        self.found.append((hook, [name for name in logs if name.startswith("by ")]))
        self.logs.append(logs)
        logs[f"by {self.name}"] = len(self.logs)


def marks(name: str) -> Marks:
    """Makes one that has every hook of a training."""

    def make(hook: str) -> Any:
        return lambda self, *arguments: self.mark(hook, arguments[-1])

    kind: type[Marks] = type("Marking", (Marks,), {hook: make(hook) for hook in FIT_HOOKS.split()})
    return kind(name)


class MarksAsync(Marks):
    """The same, with some hooks on the event loop."""

    async def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        self.mark("on_train_batch_end", logs)

    async def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        self.mark("on_epoch_end", logs)


async def test_the_def_hooks_of_one_event_share_one_dict_and_each_event_has_its_own() -> None:
    """What is added is seen by the next ones at that event, and not at the next event."""
    one, two = marks("one"), marks("two")
    await TRAINER.fit(X, Y, batch_size=4, epochs=2, validation_split=0.5, callbacks=[one, two])
    assert len(one.logs) == 2 + 2 * (2 + 4 + 2 + 4)
    assert [found for _, found in one.found[:-1]] == [[]] * (len(one.found) - 1)
    assert [found for _, found in two.found[:-1]] == [["by one"]] * (len(one.found) - 1)
    assert all(mine is theirs for mine, theirs in zip(one.logs, two.logs, strict=True))
    assert len({id(logs) for logs in one.logs}) == len(one.logs)


async def test_the_end_of_training_has_what_was_added_at_the_end_of_the_last_epoch() -> None:
    one = marks("one")
    await TRAINER.fit(X, Y, epochs=2, callbacks=[one])
    (hook, found), (_, at_epoch) = one.found[-1], one.found[-2]
    assert (hook, found, at_epoch) == ("on_train_end", ["by one"], [])
    # It added once more there, to a copy: the count of its last epoch's end was one less.
    assert one.logs[-1]["by one"] == len(one.logs)
    assert one.logs[-2]["by one"] == len(one.logs) - 1


async def test_events_are_not_changed_and_async_hooks_have_copies_of_their_own() -> None:
    one, two, recorder = marks("one"), MarksAsync("two"), EventRecorder()
    await TRAINER.fit(X, Y, batch_size=4, validation_split=0.5, callbacks=[one, two, recorder])
    assert two.found == [("on_train_batch_end", [])] * 2 + [("on_epoch_end", [])]
    for event in recorder.of(BatchEnd) + recorder.of(EpochEnd) + recorder.of(TestEnd):
        assert not [name for name in event.logs if name.startswith("by ")]
    assert "by two" not in one.logs[-2]
    (end,) = recorder.of(TrainEnd)
    assert [name for name in end.logs if name.startswith("by ")] == ["by one"]


async def test_a_def_hook_after_a_waiting_async_one_has_the_events_own_values() -> None:
    """What an `async def` hook does to its copy is nobody else's business."""

    class Ruins(Callback):
        async def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
            assert logs is not None
            logs["loss"] = -1.0
            logs["by ruins"] = 1

    history, recorder = History(), EventRecorder()
    returned = await TRAINER.fit(X, Y, callbacks=[Ruins(), history, recorder])
    (event,) = recorder.of(EpochEnd)
    assert history.history == returned.history == {k: [v] for k, v in event.logs.items()}
    assert list(event.logs) == METRICS


async def test_what_is_changed_or_taken_away_is_recorded_so() -> None:
    class Rounds(Callback):
        def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
            assert logs is not None
            logs["loss"] = round(logs["loss"])
            del logs["mean_absolute_error"]

    recorder = EventRecorder()
    returned = await TRAINER.fit(X, Y, callbacks=[Rounds(), recorder])
    (event,) = recorder.of(EpochEnd)
    assert returned.history == {"loss": [round(event.logs["loss"])]}
    assert list(event.logs) == METRICS


class Keeps(Callback):
    """Keeps copies of the logs, by hook."""

    def __init__(self) -> None:
        self.logs: dict[str, list[Logs]] = {}

    def keep(self, hook: str, logs: Logs) -> None:
        self.logs.setdefault(hook, []).append(dict(logs))


def keeps(hooks: str) -> Keeps:
    """Makes one that has these hooks."""

    def make(hook: str) -> Any:
        return lambda self, *arguments: self.keep(hook, arguments[-1])

    kind: type[Keeps] = type("Keeping", (Keeps,), {hook: make(hook) for hook in hooks.split()})
    return kind()


async def test_logs_are_the_events_own_sorted_floats() -> None:
    kept, recorder = keeps(FIT_HOOKS), EventRecorder()
    await TRAINER.fit(
        X, Y, batch_size=4, epochs=2, validation_split=0.5, callbacks=[kept, recorder]
    )
    kinds: dict[str, type[Any]] = {
        "on_train_batch_end": BatchEnd,
        "on_test_batch_end": fitbus.TestBatchEnd,
        "on_test_end": TestEnd,
        "on_epoch_end": EpochEnd,
        "on_train_end": TrainEnd,
    }
    for hook, kind in kinds.items():
        assert kept.logs[hook] == [event.logs for event in recorder.of(kind)]
        for logs in kept.logs[hook]:
            assert list(logs) == sorted(logs)
            assert {type(value) for value in logs.values()} == {float}
    assert all(logs == {} for hook in kept.logs if "begin" in hook for logs in kept.logs[hook])
    assert kept.logs["on_train_end"] == kept.logs["on_epoch_end"][-1:]


@pytest.mark.parametrize("freq", [2, [2, 4]])
async def test_the_logs_of_an_epoch_have_validation_where_it_ran(freq: Any) -> None:
    kept = keeps("on_epoch_end on_test_end on_train_end")
    await TRAINER.fit(X, Y, epochs=5, validation_split=0.5, validation_freq=freq, callbacks=[kept])
    ends = kept.logs["on_epoch_end"]
    assert ["val_loss" in logs for logs in ends] == [False, True, False, True, False]
    assert [ends[1]["val_loss"], ends[3]["val_loss"]] == [
        logs["loss"] for logs in kept.logs["on_test_end"]
    ]
    assert list(kept.logs["on_train_end"][0]) == METRICS


@pytest.mark.parametrize("is_async", [False, True], ids=["def", "async def"])
async def test_the_logs_of_a_predicted_batch_are_its_outputs_on_the_host(is_async: bool) -> None:
    class Outputs(Callback):
        def __init__(self) -> None:
            self.parts: list[Any] = []

        def on_predict_batch_end(self, batch: int, logs: Logs | None = None) -> None:
            assert logs is not None
            assert list(logs) == ["outputs"]
            self.parts.append(logs["outputs"])

    class OutputsAsync(Outputs):
        async def on_predict_batch_end(self, batch: int, logs: Logs | None = None) -> None:  # type: ignore[override]  # a hook may be either
            Outputs.on_predict_batch_end(self, batch, logs)

    kept = OutputsAsync() if is_async else Outputs()
    whole = await TRAINER.predict(X, batch_size=6, callbacks=[kept])
    assert [type(part) for part in kept.parts] == [np.ndarray] * 3
    assert [part.shape for part in kept.parts] == [(6,), (6,), (4,)]
    np.testing.assert_array_equal(np.concatenate(kept.parts), whole)
