"""Controls: valid from construction, frozen, and plain."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from fitbus.control import (
    Control,
    Evaluate,
    Pause,
    RestoreCheckpoint,
    Resume,
    SaveCheckpoint,
    ScaleLearningRate,
    SetHyperparameter,
    SetLearningRate,
    StopEpoch,
    StopTraining,
    UpdateState,
)
from fitbus.errors import InvalidArgumentError

A_TEXT = "give a text"
NOT_BELOW_0 = "give a finite number of at least 0"
ABOVE_0 = "give a finite number above 0"
FINITE = "give a finite number"


@pytest.mark.parametrize(
    ("make", "found", "argument", "allowed"),
    [
        (SetLearningRate, math.nan, "SetLearningRate.value", NOT_BELOW_0),
        (SetLearningRate, math.inf, "SetLearningRate.value", NOT_BELOW_0),
        (SetLearningRate, -1e-9, "SetLearningRate.value", NOT_BELOW_0),
        (SetLearningRate, "0.1", "SetLearningRate.value", NOT_BELOW_0),
        (SetLearningRate, True, "SetLearningRate.value", NOT_BELOW_0),
        (SetLearningRate, None, "SetLearningRate.value", NOT_BELOW_0),
        (SetLearningRate, np.float32(math.nan), "SetLearningRate.value", NOT_BELOW_0),
        (SetLearningRate, np.ones(2), "SetLearningRate.value", NOT_BELOW_0),
        (ScaleLearningRate, 0, "ScaleLearningRate.factor", ABOVE_0),
        (ScaleLearningRate, -2.0, "ScaleLearningRate.factor", ABOVE_0),
        (ScaleLearningRate, math.nan, "ScaleLearningRate.factor", ABOVE_0),
        (ScaleLearningRate, math.inf, "ScaleLearningRate.factor", ABOVE_0),
        (lambda v: SetHyperparameter("b1", v), math.nan, "SetHyperparameter.value", FINITE),
        (lambda v: SetHyperparameter("b1", v), "0.9", "SetHyperparameter.value", FINITE),
        (lambda v: SetHyperparameter(v, 0.9), "", "SetHyperparameter.name", A_TEXT),
        (lambda v: SetHyperparameter(v, 0.9), 3, "SetHyperparameter.name", A_TEXT),
        (StopTraining, "", "StopTraining.reason", A_TEXT),
        (StopTraining, 7, "StopTraining.reason", A_TEXT),
        (
            lambda v: StopTraining("enough", validate=v),
            1,
            "StopTraining.validate",
            "allowed are True, False",
        ),
        (StopEpoch, None, "StopEpoch.reason", A_TEXT),
        (SaveCheckpoint, 3, "SaveCheckpoint.tag", A_TEXT),
        (RestoreCheckpoint, "", "RestoreCheckpoint.which", A_TEXT),
        (UpdateState, "state", "UpdateState.fn", "give a function of the state"),
    ],
)
def test_a_wrong_value_is_refused_where_it_is_given(
    make: Callable[[Any], Control], found: Any, argument: str, allowed: str
) -> None:
    """The message names the argument, what was found and what is allowed."""
    with pytest.raises(InvalidArgumentError) as caught:
        make(found)
    assert caught.value.argument == argument
    assert caught.value.found is found
    assert str(caught.value) == f"{argument}: found {found!r}; {allowed}"


@pytest.mark.parametrize("number", [np.float32(0.5), np.array(0.5), jnp.float32(0.5), 0.5])
def test_scalars_of_other_libraries_become_plain_floats(number: Any) -> None:
    made = [SetLearningRate(number).value, ScaleLearningRate(number).factor]
    made.append(SetHyperparameter("b1", number).value)
    assert made == [0.5, 0.5, 0.5]
    assert [type(value) for value in made] == [float, float, float]


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (SetLearningRate(0.1), "value"),
        (StopTraining(), "reason"),
        (SetHyperparameter("b1", 0.9), "name"),
        (SaveCheckpoint(), "tag"),
    ],
)
def test_nobody_can_change_one_that_was_sent(message: Control, field: str) -> None:
    with pytest.raises(AttributeError, match="immutable"):
        setattr(message, field, "other")


def test_the_key_says_what_supersedes_what() -> None:
    """Setting the learning rate by either control is one thing; what sets nothing has no key."""
    assert SetLearningRate(0.1).key == SetHyperparameter("learning_rate", 0.2).key
    assert SetHyperparameter("b1", 0.1).key != SetHyperparameter("b2", 0.1).key
    without = [
        StopTraining(),
        StopEpoch(),
        ScaleLearningRate(0.5),
        Pause(),
        Resume(),
        Evaluate(),
        SaveCheckpoint(),
        RestoreCheckpoint(),
        UpdateState(lambda state: state),
    ]
    assert [message.key for message in without] == [None] * len(without)


def test_controls_of_ones_own_are_frozen_structs_with_a_tag_by_module() -> None:
    class Freeze(Control):
        layer: str

    assert Freeze("encoder") == Freeze(layer="encoder")
    assert Freeze("encoder").key is None
    assert Freeze.__struct_config__.tag == f"{__name__}.{Freeze.__qualname__}"
    with pytest.raises(AttributeError, match="immutable"):
        setattr(Freeze("encoder"), "layer", "decoder")  # noqa: B010  # checkers refuse it too
