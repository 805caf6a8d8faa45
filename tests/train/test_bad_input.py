"""Wrong arguments: the message names the argument, what was found and what is allowed.

Scenario 30.
"""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest

import fitbus
from fitbus import (
    BatchEnd,
    Callback,
    Control,
    EpochEnd,
    RestoreCheckpoint,
    SaveCheckpoint,
    StopTraining,
    TrainEnd,
    Trainer,
)
from fitbus.callbacks import EarlyStopping
from fitbus.errors import (
    ControlRejectedError,
    DataError,
    InvalidArgumentError,
    InvalidHandlerError,
)
from fitbus.testing import EventRecorder, toy_problem

from ._bad_input import Mean, refused

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """One loop is enough: nothing here depends on it."""
    return "asyncio"


PROBLEM = toy_problem(40, 4)
X, Y = PROBLEM.x, PROBLEM.y
SHARED = Trainer(PROBLEM.task, PROBLEM.params)


# Arguments of `fit`.

WHOLE = "give a whole number of at least 1"
SECONDS = "give seconds, a number above 0"
NUMBERS: list[tuple[str, Any, str]] = [
    *(("batch_size", value, WHOLE) for value in (0, 1.5, True, "8")),
    *(("epochs", value, "give a whole number of at least 0") for value in (-1, "3", None)),
    ("initial_epoch", -1, "give a whole number of at least 0"),
    *(("steps_per_epoch", value, WHOLE) for value in (0, 2.0)),
    *(("validation_batch_size", value, WHOLE) for value in (0, 8.0)),
    *(("validation_steps", value, WHOLE) for value in (0, "1")),
    *(("steps_per_execution", value, WHOLE) for value in (0, None)),
    *(("verbose", value, "allowed are 0, 1, 2, 'auto'") for value in (3, -1, "yes", 1.0, None)),
    *(("shuffle", value, "allowed are True, False, 'batch'") for value in ("all", 1, None)),
    *(
        ("validation_split", value, "give a fraction of at least 0 and below 1")
        for value in (1.0, -0.1, math.nan, "a", True)
    ),
    *(
        ("validation_freq", value, f"{WHOLE}, or a collection of")
        for value in (0, 1.5, "1", ["a"], [0], True)
    ),
    *(("grace_s", value, SECONDS) for value in (0, -1, math.nan, math.inf, "5")),
    *(("drain_s", value, "give seconds, a number of at least 0") for value in (-1, "a", None)),
    *(
        ("class_weight", value, "give a dict of class indices to finite weights")
        for value in ([1, 2], {0: -1}, {}, {"a": 1}, {0.5: 1}, {0: 1, "0": 2}, {0: math.nan}, 3)
    ),
]


@pytest.mark.parametrize(("argument", "value", "allowed"), NUMBERS)
def test_an_argument_of_fit_out_of_range(argument: str, value: Any, allowed: str) -> None:
    """Refused before anything starts, by `run` as by `fit`."""
    options: Any = {argument: value}
    with refused(InvalidArgumentError, f"{argument}: found ", repr(value), allowed) as caught:
        SHARED.run(X, Y, **options)
    assert caught.value.argument == argument
    assert caught.value.found is value


def test_numpys_whole_numbers_are_whole_numbers() -> None:
    history = SHARED.fit_sync(
        X,
        Y,
        batch_size=np.int64(8),  # type: ignore[arg-type]  # what NumPy's functions return
        epochs=np.int32(4),  # type: ignore[arg-type]
        validation_data=(X, Y),
        validation_freq=np.int64(2),  # type: ignore[arg-type]
    )
    assert len(history.history["loss"]) == 4
    assert len(history.history["val_loss"]) == 2


async def test_an_unknown_argument() -> None:
    """As for any function."""
    options: Any = {"bach_size": 8}
    calls: list[Any] = [SHARED.fit, SHARED.run, SHARED.evaluate, SHARED.predict]
    for call in calls:
        with refused(TypeError, "Trainer.", "got an unexpected keyword argument 'bach_size'"):
            await call(X, **options)


WORDS = np.array(["a"] * 40)
DATA: dict[str, tuple[Any, Any, dict[str, Any], str, str]] = {
    "lengths": (X, Y[:30], {}, "y", "it has 30 examples, and x has 40"),
    "lengths split": (X, Y[:3], {"validation_split": 0.2}, "y", "3 examples, and x has 40"),
    "lengths in a dict": ({"a": X, "b": X[:3]}, Y, {}, "x", "different lengths: [3, 40]"),
    "empty": (X[:0], Y[:0], {}, "x", "it is empty"),
    "empty dict": ({}, Y, {}, "x", "found {}, which holds no array"),
    "a scalar": (np.float32(3), Y, {}, "x", "found a scalar; the first dimension must be"),
    "a number": (3, Y, {}, "x", "found a scalar"),
    "nothing": (None, None, {}, "x", "found NoneType; give arrays, or an iterable"),
    "a text": ("abc", Y, {}, "x", "found str of <U3; give arrays of numbers"),
    "texts": (WORDS, Y, {}, "x", "found ndarray of <U1; give arrays of numbers"),
    "texts as y": (X, WORDS, {}, "y", "found ndarray of <U1; give arrays of numbers"),
    "objects": (np.array([object()] * 40), Y, {}, "x", "of object; give arrays of numbers"),
    "dates": (np.array(["2000-01-01"] * 40, "M8[D]"), Y, {}, "x", "give arrays of numbers"),
    "batches beside y": ((x for x in X), Y, {}, "x", "found generator; x and y are arrays, or"),
    "batches as y": (X, (y for y in Y), {}, "y", "found generator; x and y are arrays, or"),
    "weights' length": (X, Y, {"sample_weight": np.ones(3)}, "sample_weight", "(3,); give one"),
    "weights' shape": (X, Y, {"sample_weight": np.ones((40, 1))}, "sample_weight", "(40, 1); give"),
    "negative weights": (X, Y, {"sample_weight": -np.ones(40)}, "sample_weight", "is negative"),
    "NaN weights": (X, Y, {"sample_weight": np.full(40, math.nan)}, "sample_weight", "or NaN"),
    "zero weights": (X, Y, {"sample_weight": np.zeros(40)}, "sample_weight", "weights are zero"),
    "text weights": (X, Y, {"sample_weight": "a"}, "sample_weight", "found str; give numbers"),
    "weights split": (
        X,
        Y,
        {"sample_weight": np.ones(3), "validation_split": 0.5},
        "sample_weight",
        "its shape is (3,); give one weight for each of 40",
    ),
    "validation lengths": (
        X,
        Y,
        {"validation_data": (X, Y[:3])},
        "validation_data: y",
        "it has 3 examples, and validation_data has 40",
    ),
    "validation weights": (
        X,
        Y,
        {"validation_data": (X, Y, np.ones(2))},
        "validation_data: sample_weight",
        "its shape is (2,)",
    ),
    "no validation": (X, Y, {"validation_data": (X[:0], Y[:0])}, "validation_data", "it is empty"),
    "validation by ()": (X, Y, {"validation_data": ()}, "validation_data", "holds no array"),
    "validation by []": (X, Y, {"validation_data": []}, "validation_data", "it gave no batch"),
    "validation by 3": (X, Y, {"validation_data": 3}, "validation_data", "found int; give arrays"),
    "lengths in a batch": ([(X[:8], Y[:7])], None, {}, "y", "7 examples, and x batch: x has 8"),
    "a batch of four": ([(X, Y, Y, Y)], None, {}, "x", "a batch is a tuple of 4; give x, (x, y)"),
    "an empty batch": ([(X[:0], Y[:0])], None, {}, "x batch", "it is empty"),
    "a later empty batch": ([X[:8], X[:0]], None, {}, "x batch", "it is empty"),
    "a batch of text": (["abc"], None, {}, "x batch", "found a scalar"),
    "texts in a batch": ([(WORDS, Y)], None, {}, "x batch", "found ndarray of <U1; give arrays of"),
    "later texts": ([X[:8], WORDS[:8]], None, {}, "x batch", "found ndarray of <U1; give arrays"),
    "later texts as y": ([(X[:8], Y[:8]), (X[:8], WORDS[:8])], None, {}, "y", "of <U1; give"),
    "objects in a batch": ([X.astype(object)], None, {}, "x batch", "of object; give arrays of"),
    "a batch of nothing": ([None], None, {}, "x batch", "found None, which holds no array"),
    "weights in a batch": (
        [(X[:8], Y[:8], np.ones(7))],
        None,
        {},
        "x batch: sample_weight",
        "(7,); give one weight for each of 8",
    ),
}


@pytest.fixture(scope="module")
def mean() -> Trainer:
    return Trainer(Mean(), {"w": np.zeros(1)})


@pytest.mark.parametrize(("x", "y", "options", "argument", "problem"), DATA.values(), ids=DATA)
async def test_data_that_cant_be_trained_on(
    mean: Trainer, x: Any, y: Any, options: Any, argument: str, problem: str
) -> None:
    with refused(DataError, f"{argument}: ", problem) as caught:
        await mean.fit(x, y, **options)
    assert caught.value.argument == argument


TOGETHER: dict[str, tuple[Any, Any, dict[str, Any], str, str]] = {
    "split of batches": (
        [(X, Y)],
        None,
        {"validation_split": 0.2},
        "validation_split",
        "arrays only",
    ),
    "split of too few": (
        X,
        Y,
        {"validation_split": 0.99},
        "validation_split",
        "of 40 examples it leaves 0 to train on and 40 to validate on",
    ),
    "weights beside batches": (
        [(X, Y)],
        None,
        {"sample_weight": np.ones(40)},
        "sample_weight",
        "batches bring their own",
    ),
    "a long tuple": (
        X,
        Y,
        {"validation_data": (X, Y, Y, Y)},
        "validation_data",
        "a tuple of 4'; give (x, y) or (x, y, sample_weight)",
    ),
    "classes without labels": (
        [X],
        None,
        {"class_weight": {0: 1}},
        "class_weight",
        "y is NoneType",
    ),
    "classes of a dict": (X, {"a": Y}, {"class_weight": {0: 1}}, "class_weight", "y is dict"),
}


@pytest.mark.parametrize(
    ("x", "y", "options", "argument", "problem"), TOGETHER.values(), ids=TOGETHER
)
async def test_arguments_that_dont_go_together(
    mean: Trainer, x: Any, y: Any, options: Any, argument: str, problem: str
) -> None:
    with refused(InvalidArgumentError, f"{argument}: found ", problem):
        await mean.fit(x, y, **options)


def takes_two(event: EpochEnd, more: Any) -> None: ...


def takes_anything(event: Any) -> None: ...


def takes_a_number(event: int) -> None: ...


CALLBACKS: list[tuple[Any, type[Exception], str]] = [
    ([3], InvalidArgumentError, "callbacks: found 3; give Callback objects, handlers, or lists"),
    (3, InvalidArgumentError, "callbacks: found 3; give Callback objects, handlers, or lists"),
    ([[None, [3]]], InvalidArgumentError, "callbacks: found 3; give Callback objects"),
    ("abc", InvalidArgumentError, "callbacks: found 'a'; give Callback objects"),
    ({"a": takes_two}, InvalidArgumentError, "callbacks: found 'a'; give Callback objects"),
    ([EpochEnd], InvalidArgumentError, "EpochEnd'>; an event type doesn't listen; give a"),
    ([Callback], InvalidArgumentError, "Callback'>; give an instance: Callback()"),
    ([takes_two], InvalidHandlerError, "takes_two at .*; it must take one event, positionally"),
    ([takes_anything], InvalidHandlerError, "the event types can't be told from the annotation"),
    ([takes_a_number], InvalidHandlerError, "name them: `@fitbus.handler\\(EpochEnd\\)`"),
    ([lambda event: None], InvalidHandlerError, "name them: `@fitbus.handler\\(EpochEnd\\)`"),
]


@pytest.mark.parametrize(("callbacks", "error", "message"), CALLBACKS)
async def test_callbacks_that_cant_listen(callbacks: Any, error: Any, message: str) -> None:
    """In all three calls; and nothing of it stays subscribed."""
    message = message if "\\" in message or ".*" in message else re.escape(message)
    for call in (SHARED.fit(X, Y, callbacks=callbacks), SHARED.predict(X, callbacks=callbacks)):
        with pytest.raises(error, match=message):
            await call
    with pytest.raises(error, match=message):
        await SHARED.evaluate(X, Y, callbacks=callbacks)
    assert SHARED.bus.statistics().subscriptions == ()


def test_an_event_type_that_is_none() -> None:
    kinds: Any = (int,)
    with refused(InvalidArgumentError, "", "<class 'int'>"):
        fitbus.handler(*kinds)(takes_anything)


async def test_a_monitor_that_can_never_exist() -> None:
    """Refused before the first step, with the names that there will be."""
    trainer = Trainer(PROBLEM.task, PROBLEM.params)
    recorder = EventRecorder()
    callbacks = [recorder, EarlyStopping(monitor="val_acuracy")]
    names = "['loss', 'mean_absolute_error', 'val_loss', 'val_mean_absolute_error']"
    with refused(InvalidArgumentError, "EarlyStopping.monitor: found 'val_acuracy'", names):
        await trainer.fit(X, Y, validation_split=0.2, callbacks=callbacks)
    assert recorder.names == ["TrainBegin", "TrainEnd"]
    assert recorder.of(TrainEnd)[0].reason == "failed"
    assert int(trainer.state.step) == 0


# `evaluate` and `predict`.


@pytest.mark.parametrize(
    ("options", "error", "argument"),
    [
        ({"batch_size": "3"}, InvalidArgumentError, "batch_size"),
        ({"steps": 0}, InvalidArgumentError, "steps"),
        ({"steps": 1.5}, InvalidArgumentError, "steps"),
        ({"verbose": 7}, InvalidArgumentError, "verbose"),
        ({"grace_s": -1}, InvalidArgumentError, "grace_s"),
        ({"drain_s": -1}, InvalidArgumentError, "drain_s"),
        ({"x": X[:0]}, DataError, "x"),
        ({"x": None}, DataError, "x"),
        ({"x": "abc"}, DataError, "x"),
    ],
)
async def test_evaluate_and_predict(options: dict[str, Any], error: Any, argument: str) -> None:
    given: dict[str, Any] = {"x": X, **options}
    for call in (SHARED.evaluate, SHARED.predict):
        with refused(error, f"{argument}: "):
            await call(**given)


async def test_evaluate_takes_targets_and_weights() -> None:
    with refused(DataError, "y: it has 2 examples, and x has 40"):
        await SHARED.evaluate(X, Y[:2])
    with refused(DataError, "sample_weight: its shape is (2,)"):
        await SHARED.evaluate(X, Y, sample_weight=np.ones(2))


# Controls that need what isn't there. Their values: tests/control/test_messages.py.


@pytest.mark.parametrize("control", [SaveCheckpoint("best"), RestoreCheckpoint()])
async def test_checkpoints_are_refused_with_what_to_do_instead(control: Control) -> None:
    async with SHARED.run(X, Y, epochs=10**6) as run:
        await run.wait_for(BatchEnd)
        name = type(control).__name__
        with refused(ControlRejectedError, f"{name} was rejected: ", "`await run.snapshot()`"):
            await run.send(control)
        await run.send(StopTraining())
