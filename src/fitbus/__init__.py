"""fitbus: an event-driven async callback bus for JAX training.

A jitted training step publishes typed events onto a bus; subscribers run concurrently, on asyncio,
uvloop and trio, and send typed controls back, which training applies at a step boundary and
acknowledges. Names that need JAX are loaded when they are first used, so a process that only
watches stays light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fitbus import bus, callbacks, control, errors, events, journal
from fitbus.bus import Bus, Publisher, RunHandle, Subscription, handler
from fitbus.callbacks import Callback
from fitbus.control import (
    Applied,
    Control,
    Evaluate,
    Pause,
    Receipt,
    RestoreCheckpoint,
    Resume,
    SaveCheckpoint,
    ScaleLearningRate,
    SetHyperparameter,
    SetLearningRate,
    StopEpoch,
    StopTraining,
    UnknownControl,
    UpdateState,
)
from fitbus.errors import FitbusError
from fitbus.events import (
    BatchBegin,
    BatchEnd,
    CheckpointSaved,
    Codec,
    ControlApplied,
    ControlRejected,
    EpochBegin,
    EpochEnd,
    Event,
    HandlerFailed,
    Lagged,
    PredictBatchBegin,
    PredictBatchEnd,
    PredictBegin,
    PredictEnd,
    RunPaused,
    RunResumed,
    StepSkipped,
    TestBatchBegin,
    TestBatchEnd,
    TestBegin,
    TestEnd,
    TrainBegin,
    TrainEnd,
    UnknownEvent,
)

if TYPE_CHECKING:
    from fitbus import checkpoints, client, keras, process, service, testing, train
    from fitbus._replaying import Replay, Sent, replay, replay_sync
    from fitbus.process import ProcessRun
    from fitbus.train import (
        Batch,
        Fold,
        History,
        Run,
        Runs,
        Supervised,
        Task,
        Trainer,
        TrainState,
        stop_on_signals,
    )

__version__ = "0.1.0"

__all__ = [
    "Applied",
    "Batch",
    "BatchBegin",
    "BatchEnd",
    "Bus",
    "Callback",
    "CheckpointSaved",
    "Codec",
    "Control",
    "ControlApplied",
    "ControlRejected",
    "EpochBegin",
    "EpochEnd",
    "Evaluate",
    "Event",
    "FitbusError",
    "Fold",
    "HandlerFailed",
    "History",
    "Lagged",
    "Pause",
    "PredictBatchBegin",
    "PredictBatchEnd",
    "PredictBegin",
    "PredictEnd",
    "ProcessRun",
    "Publisher",
    "Receipt",
    "Replay",
    "RestoreCheckpoint",
    "Resume",
    "Run",
    "RunHandle",
    "RunPaused",
    "RunResumed",
    "Runs",
    "SaveCheckpoint",
    "ScaleLearningRate",
    "Sent",
    "SetHyperparameter",
    "SetLearningRate",
    "StepSkipped",
    "StopEpoch",
    "StopTraining",
    "Subscription",
    "Supervised",
    "Task",
    "TestBatchBegin",
    "TestBatchEnd",
    "TestBegin",
    "TestEnd",
    "TrainBegin",
    "TrainEnd",
    "TrainState",
    "Trainer",
    "UnknownControl",
    "UnknownEvent",
    "UpdateState",
    "bus",
    "callbacks",
    "checkpoints",
    "client",
    "control",
    "errors",
    "events",
    "handler",
    "journal",
    "keras",
    "process",
    "replay",
    "replay_sync",
    "service",
    "stop_on_signals",
    "testing",
    "train",
]

_FROM_REPLAYING = {"Replay", "Sent", "replay", "replay_sync"}
_FROM_TRAIN = {
    "Batch",
    "Fold",
    "History",
    "Run",
    "Runs",
    "Supervised",
    "Task",
    "TrainState",
    "Trainer",
    "stop_on_signals",
}


def __getattr__(name: str) -> Any:
    """Loads what needs JAX, and the packages that aren't always needed, when first asked for."""
    if name in _FROM_REPLAYING:
        return getattr(importlib.import_module("fitbus._replaying"), name)
    if name == "ProcessRun":
        return importlib.import_module("fitbus.process").ProcessRun
    if name in _FROM_TRAIN:
        return getattr(importlib.import_module("fitbus.train"), name)
    if name in ("checkpoints", "client", "keras", "process", "service", "testing", "train"):
        return importlib.import_module(f"fitbus.{name}")
    raise AttributeError(f"module 'fitbus' has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names."""
    return __all__
