"""What listens and decides: `Callback`, and the built-in callbacks, with Keras' names.

Most of the built-in ones are loaded when they are first asked for, and what they need of other
libraries when one is made; `ProgbarLogger` is Keras' name of `ProgressBar`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fitbus.callbacks._callback import Callback, Logs
from fitbus.callbacks._early_stopping import EarlyStopping
from fitbus.callbacks._history import History
from fitbus.callbacks._lambda import LambdaCallback

if TYPE_CHECKING:
    from fitbus.callbacks._backup_and_restore import BackupAndRestore
    from fitbus.callbacks._csv_logger import CSVLogger
    from fitbus.callbacks._device_stats import DeviceStats
    from fitbus.callbacks._guard import Guard
    from fitbus.callbacks._journal import Journal
    from fitbus.callbacks._json_logger import JSONLogger
    from fitbus.callbacks._learning_rate_finder import LearningRateFinder
    from fitbus.callbacks._learning_rate_scheduler import LearningRateScheduler
    from fitbus.callbacks._model_checkpoint import ModelCheckpoint
    from fitbus.callbacks._orbax_checkpoint import OrbaxCheckpoint
    from fitbus.callbacks._param_scheduler import ParamScheduler
    from fitbus.callbacks._progress_bar import ProgressBar
    from fitbus.callbacks._progress_bar import ProgressBar as ProgbarLogger
    from fitbus.callbacks._reduce_lr_on_plateau import ReduceLROnPlateau
    from fitbus.callbacks._remote_monitor import RemoteMonitor
    from fitbus.callbacks._stop_on_divergence import StopOnDivergence
    from fitbus.callbacks._swap_ema_weights import SwapEMAWeights
    from fitbus.callbacks._tensorboard import TensorBoard
    from fitbus.callbacks._terminate_on_nan import TerminateOnNaN
    from fitbus.callbacks._throughput import Throughput
    from fitbus.callbacks._timer import Timer

__all__ = [
    "BackupAndRestore",
    "CSVLogger",
    "Callback",
    "DeviceStats",
    "EarlyStopping",
    "Guard",
    "History",
    "JSONLogger",
    "Journal",
    "LambdaCallback",
    "LearningRateFinder",
    "LearningRateScheduler",
    "Logs",
    "ModelCheckpoint",
    "OrbaxCheckpoint",
    "ParamScheduler",
    "ProgbarLogger",
    "ProgressBar",
    "ReduceLROnPlateau",
    "RemoteMonitor",
    "StopOnDivergence",
    "SwapEMAWeights",
    "TensorBoard",
    "TerminateOnNaN",
    "Throughput",
    "Timer",
]

_FILES = {
    "BackupAndRestore": "_backup_and_restore",
    "CSVLogger": "_csv_logger",
    "DeviceStats": "_device_stats",
    "Guard": "_guard",
    "JSONLogger": "_json_logger",
    "Journal": "_journal",
    "LearningRateFinder": "_learning_rate_finder",
    "LearningRateScheduler": "_learning_rate_scheduler",
    "ModelCheckpoint": "_model_checkpoint",
    "OrbaxCheckpoint": "_orbax_checkpoint",
    "ParamScheduler": "_param_scheduler",
    "ProgressBar": "_progress_bar",
    "ReduceLROnPlateau": "_reduce_lr_on_plateau",
    "RemoteMonitor": "_remote_monitor",
    "StopOnDivergence": "_stop_on_divergence",
    "SwapEMAWeights": "_swap_ema_weights",
    "TensorBoard": "_tensorboard",
    "TerminateOnNaN": "_terminate_on_nan",
    "Throughput": "_throughput",
    "Timer": "_timer",
}


def __getattr__(name: str) -> Any:
    """Loads a built-in callback when it is first asked for."""
    meant = "ProgressBar" if name == "ProgbarLogger" else name
    if meant in _FILES:
        return getattr(importlib.import_module(f"fitbus.callbacks.{_FILES[meant]}"), meant)
    raise AttributeError(f"module 'fitbus.callbacks' has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names."""
    return __all__
