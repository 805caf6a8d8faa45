"""The controls: what subscribers and services ask of training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, dataclass_transform, final

import msgspec

from fitbus._checks import set_finite
from fitbus._message import MessageMeta
from fitbus.errors import InvalidArgumentError

__all__ = [
    "Control",
    "Evaluate",
    "Pause",
    "RestoreCheckpoint",
    "Resume",
    "SaveCheckpoint",
    "ScaleLearningRate",
    "SetHyperparameter",
    "SetLearningRate",
    "StopEpoch",
    "StopTraining",
    "UnknownControl",
    "UpdateState",
]

_IN_PROCESS = " (in its process only)"


@dataclass_transform(frozen_default=True)
class _ControlMeta(MessageMeta):
    """Controls take their fields by position or by keyword."""


class Control(msgspec.Struct, metaclass=_ControlMeta, frozen=True):
    """A message to training: an imperative, applied at a step boundary and acknowledged.

    Frozen, valid from construction, and sendable from any task or thread. Subclass it for a control
    of your own and tell the task how to apply it (`Supervised(controls={Freeze: freeze})`, or an
    attribute `controls` of a task of your own):

    >>> class Freeze(Control):
    ...     layer: str
    >>> Freeze("encoder")
    Freeze(layer='encoder')

    Values are checked by the annotations when it is constructed, and NumPy's scalars made plain
    numbers; a `__post_init__` of its own, for narrower checks, is called after that.

    Attributes:
        crosses_processes: Whether the codec can carry it.
    """

    crosses_processes: ClassVar[bool] = True

    @property
    def key(self) -> str | None:
        """What it sets: of two with one key at one boundary the later wins. None: all act."""
        return None


@final
class StopTraining(Control):
    """Ends training after the current batch; validation and `EpochEnd` still come.

    Several are OR-ed: the first one gives the reason of `TrainEnd`, and no sender resets another's.
    Stops an `evaluate` or a `predict` too.

    Args:
        reason: Why, in words; ends up in `TrainEnd.detail`.
        validate: Whether the epoch that it cuts short is still validated.
        resumable: Whether training is to go on later: `BackupAndRestore` takes a backup where it
            stops, and keeps it, unless another stop means an end. Then nothing is validated.
    """

    reason: str = "asked to stop"
    validate: bool = True
    resumable: bool = False

    def __post_init__(self) -> None:
        _check_text(self, "reason")
        _check_bool(self, "validate")
        _check_bool(self, "resumable")


@final
class StopEpoch(Control):
    """Ends the current epoch after the current batch; training goes on with the next epoch.

    Args:
        reason: Why, in words.
    """

    reason: str = "asked to stop"

    def __post_init__(self) -> None:
        _check_text(self, "reason")


@final
class SetLearningRate(Control):
    """Sets the learning rate in the optimizer's state. Never recompiles the step.

    With several optimizers it sets each `learning_rate` that it finds; give them hyperparameters of
    different names, and use `SetHyperparameter`, to steer one of them.

    Args:
        value: The new learning rate: finite, at least 0.

    Raises:
        InvalidArgumentError: `value` is NaN, infinite, negative or no number.
    """

    value: float

    def __post_init__(self) -> None:
        set_finite(self, "value", least=0.0)

    @property
    def key(self) -> str | None:
        """The learning rate."""
        return "learning_rate"


@final
class ScaleLearningRate(Control):
    """Multiplies the learning rate. Two of them at one boundary are both applied.

    Args:
        factor: Finite and above 0.

    Raises:
        InvalidArgumentError: `factor` is not such a number.
    """

    factor: float

    def __post_init__(self) -> None:
        set_finite(self, "factor", above=0.0)


@final
class SetHyperparameter(Control):
    """Sets any hyperparameter that `optax.inject_hyperparams` keeps in the optimizer's state.

    Args:
        name: Its name, such as `"weight_decay"` or `"b1"`.
        value: The new value, a finite number.

    Raises:
        InvalidArgumentError: `name` is empty, or `value` no finite number.
    """

    name: str
    value: float

    def __post_init__(self) -> None:
        _check_text(self, "name")
        set_finite(self, "value")

    @property
    def key(self) -> str | None:
        """The hyperparameter's name."""
        return self.name


@final
class Pause(Control):
    """Holds training at the next step boundary, until `Resume` or a stop."""


@final
class Resume(Control):
    """Lets a paused run go on."""


@final
class Evaluate(Control):
    """Evaluates on the validation data now; the acknowledgement's `result` holds the logs."""


@final
class SaveCheckpoint(Control):
    """Saves a checkpoint: state, place in the data, history, and what callbacks remember.

    `BackupAndRestore` keeps it; without one it is rejected. The result is its path; it is written
    in the background, and `CheckpointSaved` tells when it is there.

    Args:
        tag: A name for it, of which there is one; without, it is named by the step.
    """

    tag: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.tag, str):
            raise InvalidArgumentError("SaveCheckpoint.tag", self.tag, "give a text")


@final
class RestoreCheckpoint(Control):
    """Goes back to a checkpoint, and on from there: `step` goes back, `seq` doesn't.

    The epoch that is under way ends without an `EpochEnd`. Rejected without a `BackupAndRestore`,
    and where data come once.

    Args:
        which: A tag; or `"last"`, the newest that was written.
    """

    which: str = "last"

    def __post_init__(self) -> None:
        _check_text(self, "which")


@final
class UnknownControl(Control):
    """What the codec makes of a control whose type it wasn't told. Refused when sent.

    Args:
        tag: The tag that was found.
        fields: Its fields as they were encoded.
    """

    tag: str
    fields: dict[str, Any]

    @classmethod
    def standing_for(cls, control: Control) -> UnknownControl:
        """What a file has in place of a control that works inside its process only."""
        return cls(type(control).__name__ + _IN_PROCESS, {})

    @property
    def stands_in(self) -> bool:
        """Whether it was made by `standing_for`."""
        return self.tag.endswith(_IN_PROCESS)


@final
class UpdateState(Control):
    """Replaces the state by `fn(state)`, in the training thread. In process only.

    Args:
        fn: Takes the `TrainState` on the device, returns one of the same structure, shapes and
            dtypes; what it takes may be donated later, so it must not keep it.

    Raises:
        InvalidArgumentError: `fn` can't be called.
    """

    fn: Callable[[Any], Any]

    crosses_processes: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not callable(self.fn):
            raise InvalidArgumentError("UpdateState.fn", self.fn, "give a function of the state")


def _check_text(message: Control, name: str) -> None:
    value: object = getattr(message, name)
    if not isinstance(value, str) or not value:
        raise InvalidArgumentError(f"{type(message).__name__}.{name}", value, "give a text")


def _check_bool(message: Control, name: str) -> None:
    value: object = getattr(message, name)
    if not isinstance(value, bool):
        raise InvalidArgumentError(
            f"{type(message).__name__}.{name}", value, "allowed are True, False"
        )
