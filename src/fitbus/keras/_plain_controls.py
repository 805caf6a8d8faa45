"""What controls do to a model that Keras itself trains."""

from __future__ import annotations

from typing import Any

from fitbus.control import Control, ScaleLearningRate, SetLearningRate, StopTraining
from fitbus.errors import ControlRejectedError

__all__ = ["apply_to_plain"]

_STOPS = {"fit": "stop_training", "evaluate": "stop_evaluating", "predict": "stop_predicting"}


def apply_to_plain(model: Any, control: Control, call: str) -> None:
    """Does what a control asks for, by the means that Keras gives its callbacks.

    Args:
        model: The model, in a hook of a callback.
        control: The control.
        call: What is under way: `"fit"`, `"evaluate"` or `"predict"`.

    Raises:
        ControlRejectedError: Keras can't do that; says what can.
    """
    match control:
        case StopTraining():
            setattr(model, _STOPS[call], True)
        case SetLearningRate(value):
            _set_learning_rate(model, control, value)
        case ScaleLearningRate(factor):
            _set_learning_rate(model, control, float(model.optimizer.learning_rate) * factor)
        case _:
            raise ControlRejectedError(
                control,
                "a plain model.fit takes StopTraining, SetLearningRate and ScaleLearningRate;"
                " fitbus.Trainer(fitbus.keras.KerasTask(model)) takes them all",
            )


def _set_learning_rate(model: Any, control: Control, value: float) -> None:
    try:
        model.optimizer.learning_rate = value
    except (AttributeError, TypeError) as error:  # no optimizer, or one with a schedule
        raise ControlRejectedError(control, str(error)) from error
