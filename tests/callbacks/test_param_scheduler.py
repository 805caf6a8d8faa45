"""Which hyperparameter is set, at which step or epoch, to what; and what that costs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fitbus
from fitbus.callbacks import (
    Callback,
    EarlyStopping,
    History,
    LearningRateScheduler,
    Logs,
    ParamScheduler,
)
from fitbus.control import SetHyperparameter
from fitbus.errors import ControlRejectedError, InvalidArgumentError
from fitbus.events import ControlApplied, EpochEnd
from fitbus.testing import EventRecorder, toy_problem

from ._waits import waits

pytestmark = pytest.mark.anyio

PROBLEM = toy_problem(32, 2)
TASK = fitbus.Supervised(PROBLEM.task.apply, PROBLEM.task.loss, optax.adamw, 0.5)
TRAINER = fitbus.Trainer(TASK, PROBLEM.params)
STEPS = 4  # in an epoch


def base() -> int:
    """The step at which the next fit begins: starts by step count over all fits."""
    return int(TRAINER.state.step)


class Begins(Callback):
    """Lets training begin with a learning rate of 0.5, and a decay of 0."""

    def on_train_begin(self, logs: Logs | None = None) -> list[SetHyperparameter]:
        return [SetHyperparameter("learning_rate", 0.5), SetHyperparameter("weight_decay", 0)]


class Notes(Callback):
    """Notes with what each update is made."""

    def __init__(self, *names: str) -> None:
        self.names = names or ("learning_rate",)
        self.seen: list[Any] = []

    def on_train_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        found = self.model.state.opt_state.hyperparams
        values = [float(found[name]) for name in self.names]
        self.seen.append(tuple(values) if len(values) > 1 else values[0])


async def fit(*callbacks: Any, epochs: int = 2, **given: Any) -> fitbus.History:
    return await TRAINER.fit(
        PROBLEM.x, PROBLEM.y, batch_size=8, epochs=epochs, callbacks=[Begins(), *callbacks], **given
    )


async def values(*callbacks: Any, **given: Any) -> list[float]:
    """The learning rate of each update."""
    notes = Notes()
    await fit(*callbacks, notes, **given)
    return notes.seen


CHANGES = {0: 0.25, 3: 0.125, 6: 0.0625}


@pytest.mark.parametrize("kind", [dict, list, lambda items: items[::-1], lambda i: map(list, i)])
async def test_a_table_by_step_acts_at_its_steps(kind: Callable[[Any], Any]) -> None:
    """A dict, or pairs in any order: one control for each change, exactly there."""
    begin, notes, recorder = base(), Notes(), EventRecorder()
    table = kind([(begin + start, value) for start, value in CHANGES.items()])
    table = table if isinstance(table, dict) else list(table)
    await fit(ParamScheduler("learning_rate", table), notes, recorder)
    assert notes.seen == [0.25] * 3 + [0.125] * 3 + [0.0625] * 2
    sent = [event for event in recorder.of(ControlApplied) if event.source != "Begins"]
    assert [(event.step - begin, event.control) for event in sent] == [
        (start, SetHyperparameter("learning_rate", value)) for start, value in CHANGES.items()
    ]
    assert {event.source for event in sent} == {"ParamScheduler('learning_rate')"}


async def test_before_the_first_start_nothing_is_set() -> None:
    assert await values(ParamScheduler("learning_rate", {base() + 5: 0.25})) == (
        [0.5] * 5 + [0.25] * 3
    )


async def test_a_training_that_begins_in_a_table_has_its_value_from_the_first_step() -> None:
    """As one that goes on from a backup does; starts by step count over all fits."""
    scheduler = ParamScheduler("learning_rate", {0: 0.25, base() + 10: 0.125})
    assert await values(scheduler) == [0.25] * 8
    assert await values(scheduler) == [0.25] * 2 + [0.125] * 6
    assert await values(scheduler) == [0.125] * 8
    assert scheduler.state_dict()["value"] == 0.125


async def test_a_function_by_step_is_asked_before_each_step() -> None:
    """With the updates so far; a control is sent only where the value is another one."""
    begin, asked, recorder, notes = base(), list[int](), EventRecorder(), Notes()

    def stairs(step: int) -> float:
        asked.append(step - begin)
        return [0.25, 0.125, 0.0625][(step - begin) // 3]

    await fit(ParamScheduler("learning_rate", stairs), notes, recorder)
    assert notes.seen == [0.25] * 3 + [0.125] * 3 + [0.0625] * 2
    assert asked[:8] == list(range(8))
    sent = [event.step - begin for event in recorder.of(ControlApplied) if event.source[0] == "P"]
    assert sent == [0, 3, 6]


@pytest.mark.parametrize(
    "schedule",
    [
        lambda begin: optax.exponential_decay(0.5, 2, 0.5),
        lambda begin: optax.piecewise_constant_schedule(0.5, {begin + 2: 0.5}),
        lambda begin: optax.warmup_cosine_decay_schedule(0.0, 0.5, begin + 2, begin + 8),
        lambda begin: lambda step: np.float64(0.5),
        lambda begin: lambda step: jnp.asarray(step - begin) / 8,
        lambda begin: lambda step: step - begin,
    ],
)
async def test_an_optax_schedule_gives_what_it_would_in_the_optimizer(schedule: Any) -> None:
    """At each step the float32 of its value; other numbers do as well."""
    begin = base()
    function = schedule(begin)
    expected = [float(np.float32(function(begin + step))) for step in range(8)]
    assert await values(ParamScheduler("learning_rate", function)) == expected


@pytest.mark.parametrize("schedule", [{0: 0.25, 2: 0.125}, lambda epoch: 0.25 / 2 ** (epoch // 2)])
async def test_by_epoch(schedule: Any) -> None:
    """Epochs count from 0, in each fit anew; what doesn't change isn't sent."""
    scheduler = ParamScheduler("learning_rate", schedule, by="epoch")
    recorder = EventRecorder()
    expected = [0.25] * 2 * STEPS + [0.125] * STEPS
    assert await values(scheduler, recorder, epochs=3) == expected
    sent = [event.epoch for event in recorder.of(ControlApplied) if event.source[0] == "P"]
    assert sent == [0, 2]
    assert await values(scheduler, epochs=4, initial_epoch=3) == [0.125] * STEPS


async def test_several_set_several_hyperparameters() -> None:
    """By step and by epoch, beside the callback for the learning rate."""
    notes = Notes("learning_rate", "weight_decay", "b1")
    await fit(
        ParamScheduler("weight_decay", {base() + 2: 0.25, base() + 6: 0.5}),
        ParamScheduler("b1", lambda epoch: 0.5 + epoch / 4, by="epoch"),
        LearningRateScheduler(lambda epoch: 0.125),
        notes,
    )
    decay = [0.0] * 2 + [0.25] * 4 + [0.5] * 2
    assert notes.seen == [
        (0.125, decay[step], 0.5 if step < STEPS else 0.75) for step in range(2 * STEPS)
    ]


async def test_the_logs_get_the_value_of_the_last_update_of_an_epoch() -> None:
    """Not one that was set at its very end for the next; nothing before the first value."""
    begin, history = base(), History()
    await fit(
        ParamScheduler("weight_decay", {begin + 4: 0.25, begin + 10: 0.5, begin + 12: 1}),
        ParamScheduler("b1", {0: 0.5, 2: 0.75}, by="epoch"),
        history,
        epochs=4,
    )
    assert history.history["weight_decay"] == [0.25, 0.5, 1.0]
    assert history.history["b1"] == [0.5, 0.5, 0.75, 0.75]


async def test_what_it_logs_can_be_monitored() -> None:
    """The names that logs can have know it."""
    scheduler = ParamScheduler("weight_decay", {0: 0.25}, by="epoch")
    await fit(scheduler, EarlyStopping("weight_decay", mode="max", patience=9))
    with pytest.raises(InvalidArgumentError, match=r"the logs will have .*'weight_decay'"):
        await fit(scheduler, EarlyStopping("decay", mode="max"))


@pytest.mark.parametrize("by", ["step", "epoch"])
async def test_training_waits_for_no_handler_of_a_batch(by: Any) -> None:
    """Steps run ahead between the changes."""
    seen: list[bool] = []
    scheduler = ParamScheduler("learning_rate", lambda start: 0.25, by=by)

    def looks(event: EpochEnd) -> None:
        seen.extend(waits(scheduler.run))

    await fit(scheduler, looks, epochs=1)
    assert scheduler.value == 0.25
    assert seen == [False, False]


async def test_it_is_the_only_owner_of_its_hyperparameter() -> None:
    """The message names both; one of another name is no second one."""
    step, table = base(), {0: 0.25}
    with pytest.raises(InvalidArgumentError) as raised:
        await fit(LearningRateScheduler(lambda epoch: 0.1), ParamScheduler("learning_rate", table))
    assert "ParamScheduler('learning_rate')" in str(raised.value)
    assert "LearningRateScheduler sets 'learning_rate' already" in str(raised.value)
    with pytest.raises(InvalidArgumentError, match=r"ParamScheduler\('b1'\) sets 'b1' already"):
        await fit(ParamScheduler("b1", table), ParamScheduler("b1", table))
    with pytest.raises(InvalidArgumentError, match=r"keeps no 'momentum' .*'weight_decay'"):
        await fit(ParamScheduler("momentum", table))
    assert base() == step


@pytest.mark.parametrize("by", ["step", "epoch"])
async def test_what_the_hyperparameter_cannot_hold_fails_the_run(by: Any) -> None:
    with pytest.raises(ControlRejectedError, match=r"'b1' is kept as float32, .* hold 1e\+300"):
        await fit(ParamScheduler("b1", {0: 1e300}, by=by))


@pytest.mark.parametrize("by", ["step", "epoch"])
@pytest.mark.parametrize("value", [None, math.nan, math.inf, "0.1", True, [0.1], 1j])
async def test_a_function_must_return_a_finite_number(value: Any, by: Any) -> None:
    begin = base() if by == "step" else 0

    def schedule(start: int) -> Any:
        return 0.25 if start == begin else value

    with pytest.raises(InvalidArgumentError) as raised:
        await fit(ParamScheduler("b1", schedule, by))
    told = f"the result of ParamScheduler('b1') for {by} {begin + 1}: found "
    assert str(raised.value).startswith(told)


async def test_an_error_of_a_function_is_raised_as_itself() -> None:
    step = base()
    with pytest.raises(ZeroDivisionError):
        await fit(ParamScheduler("b1", lambda now: 1 / (step + 2 - now)))
    assert base() == step + 2


@pytest.mark.parametrize(
    ("argument", "given"),
    [
        ("name", ("", {0: 1})),
        ("name", (None, {0: 1})),
        ("by", ("b1", {0: 1}, "batch")),
        ("schedule", ("b1", {})),
        ("schedule", ("b1", [])),
        ("schedule", ("b1", 0.1)),
        ("schedule", ("b1", None)),
        ("schedule", ("b1", "0: 1")),
        ("schedule", ("b1", [0.1, 0.2])),
        ("schedule", ("b1", [(0, 0.1, 0.2)])),
        ("schedule", ("b1", ["01"])),
        ("schedule", ("b1", {-1: 0.1})),
        ("schedule", ("b1", {0.5: 0.1})),
        ("schedule", ("b1", {True: 0.1})),
        ("schedule", ("b1", {"0": 0.1})),
        ("schedule", ("b1", [(0, 0.1), (0, 0.2)])),
        ("schedule at 3", ("b1", {3: math.nan})),
        ("schedule at 3", ("b1", {3: None})),
        ("schedule at 3", ("b1", {3: True})),
    ],
)
def test_an_argument_out_of_range_is_refused_with_its_name(argument: str, given: Any) -> None:
    with pytest.raises(InvalidArgumentError) as raised:
        ParamScheduler(*given)
    assert str(raised.value).startswith(f"ParamScheduler.{argument}: found ")


def test_numpy_numbers_are_starts_and_values() -> None:
    table: Any = dict(zip(np.arange(2), np.asarray([0.5, 0.25]), strict=True))
    scheduler = ParamScheduler("b1", table)
    assert scheduler._table == [(0, 0.5), (1, 0.25)]
