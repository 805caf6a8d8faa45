"""Events: frozen, keyword-only, checked when they are constructed, and tagged by their type."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import jax.numpy as jnp
import msgspec
import numpy as np
import pytest

import fitbus
from fitbus import (
    BatchBegin,
    BatchEnd,
    CheckpointSaved,
    ControlApplied,
    ControlRejected,
    EpochBegin,
    EpochEnd,
    Event,
    HandlerFailed,
    Lagged,
    PredictBatchBegin,
    PredictBatchEnd,
    RunPaused,
    RunResumed,
    StopTraining,
    TestBatchBegin,
    TestBatchEnd,
    TestEnd,
    TrainBegin,
    TrainEnd,
)
from fitbus.errors import InvalidArgumentError
from fitbus.events import is_rare


class Sampled(Event):
    path: str


class Urgent(Sampled):
    batch_level: ClassVar[bool] = True


BUILT_IN = [
    getattr(fitbus, name)
    for name in fitbus.events.__all__
    if isinstance(getattr(fitbus.events, name), type) and hasattr(fitbus, name)
]
EVENTS: list[type[Event]] = [kind for kind in BUILT_IN if issubclass(kind, Event)]

NUMBER = "give a whole number of at least 0"
ANY_NUMBER = "give a whole number of at least -1"
PAIRS = "give a mapping of names to numbers"
PAIR = "give a name and a number"
LOGS: dict[str, Any] = {"logs": {}, "batch_logs": {}}
FAILED: dict[str, Any] = {"subscriber": "s", "error": "e", "event_seq": 0}
LAGGED: dict[str, Any] = {"subscriber": "s", "count": 1, "first_seq": 0, "last_seq": 0}
APPLIED: dict[str, Any] = {"id": 0, "control": StopTraining(), "source": "s"}
REJECTED: dict[str, Any] = {**APPLIED, "why": "w"}


@pytest.mark.parametrize(
    ("kind", "values", "argument", "found", "allowed"),
    [
        (TrainBegin, {"epochs": -1}, "epochs", -1, NUMBER),
        (TrainBegin, {"epochs": True}, "epochs", True, NUMBER),
        (TrainBegin, {"epochs": 1, "steps_per_epoch": 2.5}, "steps_per_epoch", 2.5, NUMBER),
        (TrainBegin, {"epochs": 1, "initial_epoch": "0"}, "initial_epoch", "0", NUMBER),
        (
            TrainEnd,
            {"reason": "done"},
            "reason",
            "done",
            "allowed are 'completed', 'stopped', 'cancelled', 'failed'",
        ),
        (TrainEnd, {"logs": [1.0]}, "logs", [1.0], PAIRS),
        (TrainEnd, {"detail": None}, "detail", None, "give a text"),
        (TrainEnd, {"source": 3}, "source", 3, "give a text"),
        (EpochEnd, {"logs": {"loss": "low"}}, "logs['loss']", "low", PAIR),
        (EpochEnd, {"logs": {"loss": np.zeros(2)}}, "logs['loss']", np.zeros(2), PAIR),
        (EpochEnd, {"logs": {3: 0.5}}, "logs[3]", 0.5, PAIR),
        (TestEnd, {"logs": None}, "logs", None, PAIRS),
        (BatchBegin, {"batch": -1}, "batch", -1, NUMBER),
        (BatchEnd, {**LOGS, "batch": 1.0}, "batch", 1.0, NUMBER),
        (BatchEnd, {**LOGS, "batch": 0, "logs": 5}, "logs", 5, PAIRS),
        (
            BatchEnd,
            {**LOGS, "batch": 0, "batch_logs": {"loss": None}},
            "batch_logs['loss']",
            None,
            PAIR,
        ),
        (TestBatchBegin, {"batch": "0"}, "batch", "0", NUMBER),
        (TestBatchEnd, {**LOGS, "batch": None}, "batch", None, NUMBER),
        (PredictBatchBegin, {"batch": -2}, "batch", -2, NUMBER),
        (PredictBatchEnd, {"batch": -2}, "batch", -2, NUMBER),
        (ControlApplied, {**APPLIED, "id": "0"}, "id", "0", ANY_NUMBER),
        (ControlApplied, {**APPLIED, "control": "stop"}, "control", "stop", "give a Control"),
        (ControlApplied, {**APPLIED, "source": None}, "source", None, "give a text"),
        (ControlRejected, {**REJECTED, "id": -2}, "id", -2, ANY_NUMBER),
        (ControlRejected, {**REJECTED, "control": None}, "control", None, "give a Control"),
        (ControlRejected, {**REJECTED, "why": 1}, "why", 1, "give a text"),
        (RunPaused, {"source": 1}, "source", 1, "give a text"),
        (RunResumed, {"source": None}, "source", None, "give a text"),
        (CheckpointSaved, {"path": 1}, "path", 1, "give a text"),
        (CheckpointSaved, {"path": "p", "tag": None}, "tag", None, "give a text"),
        (HandlerFailed, {**FAILED, "subscriber": None}, "subscriber", None, "give a text"),
        (HandlerFailed, {**FAILED, "error": 1}, "error", 1, "give a text"),
        (HandlerFailed, {**FAILED, "event_seq": -2}, "event_seq", -2, ANY_NUMBER),
        (Lagged, {**LAGGED, "subscriber": 1}, "subscriber", 1, "give a text"),
        (Lagged, {**LAGGED, "count": 0}, "count", 0, "give a whole number of at least 1"),
        (Lagged, {**LAGGED, "first_seq": -1}, "first_seq", -1, NUMBER),
        (Lagged, {**LAGGED, "last_seq": 0.5}, "last_seq", 0.5, NUMBER),
        (EpochBegin, {"run": 3}, "run", 3, "give a text"),
        (EpochEnd, {"seq": -5}, "seq", -5, ANY_NUMBER),
        (TestBatchEnd, {**LOGS, "batch": 0, "step": "x"}, "step", "x", NUMBER),
        (BatchBegin, {"batch": 0, "epoch": -1}, "epoch", -1, NUMBER),
        (
            BatchEnd,
            {**LOGS, "batch": 0, "time": math.nan},
            "time",
            math.nan,
            "give a finite number",
        ),
        (Lagged, {**LAGGED, "seq": 0.5}, "seq", 0.5, ANY_NUMBER),
        (Sampled, {"path": "p", "seq": -5}, "seq", -5, ANY_NUMBER),
        (Urgent, {"path": "p", "step": True}, "step", True, "expected `int`, got `bool`"),
    ],
)
def test_a_wrong_value_is_refused_by_name(
    kind: type[Event], values: dict[str, Any], argument: str, found: object, allowed: str
) -> None:
    """The message names the field, what was found and what is allowed; so do the attributes."""
    with pytest.raises(InvalidArgumentError) as caught:
        kind(**values)
    error = caught.value
    assert str(error) == f"{kind.__name__}.{argument}: found {found!r}; {allowed}"
    assert error.argument == f"{kind.__name__}.{argument}"
    assert error.found is found or np.array_equal(error.found, found)  # type: ignore[arg-type]
    assert error.allowed == allowed


def test_scalars_of_numpy_and_jax_become_plain_numbers() -> None:
    event = BatchEnd(
        batch=np.int64(3),  # type: ignore[arg-type]
        logs={"loss": np.float32(0.5), "mean": jnp.float32(0.25)},  # type: ignore[dict-item]
        batch_logs={"loss": np.array(2), "count": 7, "flag": np.bool_(True)},  # type: ignore[dict-item]
    )
    assert type(event.batch) is int
    assert event.batch == 3
    assert event.logs == {"loss": 0.5, "mean": 0.25}
    assert event.batch_logs == {"loss": 2.0, "count": 7.0, "flag": 1.0}
    assert {type(v) for v in (*event.logs.values(), *event.batch_logs.values())} == {float}


@pytest.mark.parametrize("kind", [EpochEnd, BatchBegin, BatchEnd, Lagged, Sampled])
def test_scalars_in_the_envelope_become_plain_numbers(kind: type[Event]) -> None:
    values: dict[Any, dict[str, Any]] = {
        BatchBegin: {"batch": 0},
        BatchEnd: {**LOGS, "batch": 0},
        Lagged: LAGGED,
        Sampled: {"path": "p"},
    }
    envelope: dict[str, Any] = {
        "seq": np.int32(-1),
        "time": np.float32(0),
        "step": np.int64(0),
        "epoch": jnp.int32(3),
    }
    event = kind(**{**envelope, **values.get(kind, {})})
    assert [repr(getattr(event, name)) for name in envelope] == ["-1", "0.0", "0", "3"]


def test_logs_that_are_plain_already_are_not_copied() -> None:
    logs = {"loss": 0.5}
    assert EpochEnd(logs=logs).logs is logs


def test_nonfinite_logs_are_allowed() -> None:
    logs = EpochEnd(logs={"loss": math.nan, "norm": -math.inf}).logs
    assert math.isnan(logs["loss"])
    assert logs["norm"] == -math.inf


def test_the_result_of_a_control_becomes_plain() -> None:
    event = ControlApplied(
        **APPLIED,
        result={
            "val_loss": np.float32(0.5),
            "path": "p",
            "odd": {1: object},
            "losses": (np.float32(0.5), 2, None, ["p", object]),
        },
    )
    assert event.result == {
        "val_loss": 0.5,
        "path": "p",
        "odd": {"1": repr(object)},
        "losses": [0.5, 2, None, ["p", repr(object)]],
    }


@pytest.mark.parametrize("kind", [EpochBegin, EpochEnd, Sampled])
def test_events_are_frozen_and_keyword_only(kind: type[Event]) -> None:
    event = Sampled(path="p") if kind is Sampled else kind()
    with pytest.raises(AttributeError):
        setattr(event, "seq", 3)  # noqa: B010  # checkers refuse it too
    with pytest.raises(TypeError):
        kind("run-1")  # type: ignore[call-arg]


def test_an_event_has_an_empty_envelope_before_it_is_published() -> None:
    event = EpochBegin()
    assert (event.run, event.seq, event.time, event.step, event.epoch) == ("", -1, 0.0, 0, 0)


def test_only_batch_events_are_batch_level() -> None:
    assert {kind for kind in EVENTS if kind.batch_level} == {
        BatchBegin,
        BatchEnd,
        TestBatchBegin,
        TestBatchEnd,
        PredictBatchBegin,
        PredictBatchEnd,
    }
    assert Urgent.batch_level
    assert not Sampled.batch_level


def test_begin_and_end_of_train_epoch_test_and_predict_are_rare() -> None:
    rare = {kind.__name__ for kind in EVENTS if is_rare(kind)}
    assert rare == {
        f"{what}{end}" for what in ("Train", "Epoch", "Test", "Predict") for end in ("Begin", "End")
    }
    assert not is_rare(Event)
    assert not is_rare(Sampled)


def test_own_types_are_tagged_by_name_and_others_by_module_too() -> None:
    class Sampled(Event):
        """Another one of that name."""

    tags = [kind.__struct_config__.tag for kind in (EpochEnd, globals()["Sampled"], Sampled)]
    assert tags[0] == "EpochEnd"
    assert tags[1] == f"{__name__}.Sampled"
    assert tags[2] == f"{__name__}.{Sampled.__qualname__}"
    assert len(set(tags)) == 3


def test_every_type_can_be_copied_with_another_value() -> None:
    event = msgspec.structs.replace(EpochEnd(logs={"loss": 1.0}), logs={"loss": 2.0})
    assert event.logs == {"loss": 2.0}
    with pytest.raises(InvalidArgumentError):
        msgspec.structs.replace(event, logs=3)
