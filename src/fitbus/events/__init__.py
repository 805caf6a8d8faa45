"""What happened: frozen, typed events, and the codec that carries them to other processes."""

from fitbus.events._base import Event, UnknownEvent
from fitbus.events._codec import Codec
from fitbus.events._lifecycle import (
    BatchBegin,
    BatchEnd,
    EndReason,
    EpochBegin,
    EpochEnd,
    PredictBatchBegin,
    PredictBatchEnd,
    PredictBegin,
    PredictEnd,
    TestBatchBegin,
    TestBatchEnd,
    TestBegin,
    TestEnd,
    TrainBegin,
    TrainEnd,
)
from fitbus.events._notices import (
    CheckpointSaved,
    ControlApplied,
    ControlRejected,
    HandlerFailed,
    Lagged,
    RunPaused,
    RunResumed,
)

__all__ = [
    "BatchBegin",
    "BatchEnd",
    "CheckpointSaved",
    "Codec",
    "ControlApplied",
    "ControlRejected",
    "EndReason",
    "EpochBegin",
    "EpochEnd",
    "Event",
    "HandlerFailed",
    "Lagged",
    "PredictBatchBegin",
    "PredictBatchEnd",
    "PredictBegin",
    "PredictEnd",
    "RunPaused",
    "RunResumed",
    "TestBatchBegin",
    "TestBatchEnd",
    "TestBegin",
    "TestEnd",
    "TrainBegin",
    "TrainEnd",
    "UnknownEvent",
]
