"""What computes: tasks, the trainer, its runs, and the state that they train."""

from fitbus._history import History
from fitbus.train._engine import Engine
from fitbus.train._guarding import Guarding, Verdict
from fitbus.train._metrics import NO_MEAN, Fold
from fitbus.train._model import ModelView, OptimizerView
from fitbus.train._npz import restored_arrays, save_state_arrays
from fitbus.train._packing import packed, unpacked
from fitbus.train._position import Position, Restored
from fitbus.train._preparation import Preparation
from fitbus.train._run import Run
from fitbus.train._runs import Runs
from fitbus.train._signals import stop_on_signals
from fitbus.train._state import TrainState, copied, is_key, is_lost, on_host
from fitbus.train._task import Batch, ControlAppliers, Metrics, Supervised, Task
from fitbus.train._trainer import Trainer
from fitbus.train._training import Training

__all__ = [
    "NO_MEAN",
    "Batch",
    "ControlAppliers",
    "Engine",
    "Fold",
    "Guarding",
    "History",
    "Metrics",
    "ModelView",
    "OptimizerView",
    "Position",
    "Preparation",
    "Restored",
    "Run",
    "Runs",
    "Supervised",
    "Task",
    "TrainState",
    "Trainer",
    "Training",
    "Verdict",
    "copied",
    "is_key",
    "is_lost",
    "on_host",
    "packed",
    "restored_arrays",
    "save_state_arrays",
    "stop_on_signals",
    "unpacked",
]
