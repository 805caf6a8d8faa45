"""What answers back: controls, the inbox in which they wait, and the receipts of their senders."""

from fitbus.control._inbox import Inbox
from fitbus.control._messages import (
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
    UnknownControl,
    UpdateState,
)
from fitbus.control._receipts import Applied, Outcome, Receipt, Rejected, Superseded

__all__ = [
    "Applied",
    "Control",
    "Evaluate",
    "Inbox",
    "Outcome",
    "Pause",
    "Receipt",
    "Rejected",
    "RestoreCheckpoint",
    "Resume",
    "SaveCheckpoint",
    "ScaleLearningRate",
    "SetHyperparameter",
    "SetLearningRate",
    "StopEpoch",
    "StopTraining",
    "Superseded",
    "UnknownControl",
    "UpdateState",
]
