"""What happens in training, evaluation and prediction, in Keras' words."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, final, get_args

import msgspec

from fitbus._checks import check_envelope, check_text, plain_logs, set_whole
from fitbus.errors import InvalidArgumentError, one_of
from fitbus.events._base import Event

__all__ = [
    "BatchBegin",
    "BatchEnd",
    "EndReason",
    "EpochBegin",
    "EpochEnd",
    "PredictBatchBegin",
    "PredictBatchEnd",
    "PredictBegin",
    "PredictEnd",
    "TestBatchBegin",
    "TestBatchEnd",
    "TestBegin",
    "TestEnd",
    "TrainBegin",
    "TrainEnd",
    "is_rare",
]

EndReason = Literal["completed", "stopped", "cancelled", "failed"]


# Of events of every step the envelope is compared with its defaults by identity, in place: the
# publisher fills it in, and calls would make them a good deal dearer.
_RUN, _SEQ, _TIME, _STEP, _EPOCH = Event.__struct_defaults__


class _Batch(Event):
    """Has the index of a batch."""

    batch: int

    batch_level: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not (
            self.run is _RUN
            and self.seq is _SEQ
            and self.time is _TIME
            and self.step is _STEP
            and self.epoch is _EPOCH
        ):
            check_envelope(self)
        if type(self.batch) is not int or self.batch < 0:
            set_whole(self, "batch")


class _BatchLogs(Event):
    """Has the index of a batch, and its logs."""

    batch: int
    logs: dict[str, float]
    batch_logs: dict[str, float]

    batch_level: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not (
            self.run is _RUN
            and self.seq is _SEQ
            and self.time is _TIME
            and self.step is _STEP
            and self.epoch is _EPOCH
        ):
            check_envelope(self)
        if type(self.batch) is not int or self.batch < 0:
            set_whole(self, "batch")
        plain_logs(self, "logs")
        plain_logs(self, "batch_logs")


class _Logs(Event):
    """Has logs."""

    logs: dict[str, float] = msgspec.field(default_factory=dict)

    def __post_init__(self) -> None:
        check_envelope(self)
        plain_logs(self, "logs")


@final
class TrainBegin(Event):
    """Training begins.

    Attributes:
        epochs: The number of the last epoch, counted from 1 (as Keras' `epochs`).
        steps_per_epoch: Batches in an epoch; None where the data don't tell.
        initial_epoch: The first epoch, from 0.
    """

    epochs: int
    steps_per_epoch: int | None = None
    initial_epoch: int = 0

    def __post_init__(self) -> None:
        check_envelope(self)
        set_whole(self, "epochs")
        set_whole(self, "initial_epoch")
        if self.steps_per_epoch is not None:
            set_whole(self, "steps_per_epoch")


@final
class TrainEnd(_Logs):
    """Training ended: delivered on every way out, errors and cancellation included.

    Attributes:
        logs: The logs of the last epoch that ended.
        reason: `"completed"`, `"stopped"` (asked to), `"cancelled"` or `"failed"`.
        detail: The reason of the first stop, or the error.
        source: Who asked for the first stop.
    """

    reason: EndReason = "completed"
    detail: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        check_envelope(self)
        plain_logs(self, "logs")
        if self.reason not in get_args(EndReason):
            raise InvalidArgumentError("TrainEnd.reason", self.reason, one_of(get_args(EndReason)))
        check_text(self, "detail", "source")


@final
class EpochBegin(Event):
    """An epoch begins; which one is in `epoch`."""


@final
class EpochEnd(_Logs):
    """An epoch ended.

    Attributes:
        logs: Means over the epoch's examples, and `val_*` where validation ran.
    """


@final
class BatchBegin(_Batch):
    """A training batch begins.

    Attributes:
        batch: Its index in the epoch, from 0.
    """


@final
class BatchEnd(_BatchLogs):
    """A training batch ended: its optimizer update is done and its values are on the host.

    Attributes:
        batch: Its index in the epoch, from 0.
        logs: Running means since the epoch began, weighted by examples. One dict for all
            subscribers: nobody changes it.
        batch_logs: This batch's own values.
    """


@final
class TestBegin(Event):
    """An evaluation begins, inside `fit` or on its own."""

    __test__: ClassVar[bool] = False


@final
class TestEnd(_Logs):
    """An evaluation ended.

    Attributes:
        logs: Means over all its examples, without the prefix `val_`.
    """

    __test__: ClassVar[bool] = False


@final
class TestBatchBegin(_Batch):
    """A batch of an evaluation begins.

    Attributes:
        batch: Its index, from 0.
    """

    __test__: ClassVar[bool] = False


@final
class TestBatchEnd(_BatchLogs):
    """A batch of an evaluation ended.

    Attributes:
        batch: Its index, from 0.
        logs: Running means since the evaluation began.
        batch_logs: This batch's own values.
    """

    __test__: ClassVar[bool] = False


@final
class PredictBegin(Event):
    """A prediction begins."""


@final
class PredictEnd(Event):
    """A prediction ended."""


@final
class PredictBatchBegin(_Batch):
    """A batch of a prediction begins.

    Attributes:
        batch: Its index, from 0.
    """


@final
class PredictBatchEnd(_Batch):
    """A batch of a prediction ended.

    Attributes:
        batch: Its index, from 0.
        outputs: What the task predicted: NumPy arrays (or a pytree of them) of this batch's real
            rows. The codec leaves them out.
    """

    outputs: Any = None


_RARE = frozenset(
    {
        TrainBegin,
        TrainEnd,
        EpochBegin,
        EpochEnd,
        TestBegin,
        TestEnd,
        PredictBegin,
        PredictEnd,
    }
)


def is_rare(kind: type[Event]) -> bool:
    """Whether a type is the begin or the end of a train, epoch, test or predict."""
    return kind in _RARE
