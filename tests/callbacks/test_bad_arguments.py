"""Every argument of every built-in callback is refused where it is out of its range."""

from __future__ import annotations

import inspect
import math
from typing import Any

import pytest

import fitbus
from fitbus.errors import InvalidArgumentError

from ._every import NAMES, kind_of

NAN, INF = math.nan, math.inf
NO_FLAG = ["yes", 1, None]
NO_VERBOSE = [-1, "loud", None, 0.5]
NO_MONITOR = ["", None, 3]
NO_MODE = ["maximum", None, ""]
NO_SECONDS = [0, -1, INF, NAN, "1", None, True]
NO_PATH = ["", None, 3, b"bytes"]
NO_COUNT = [-1, 1.5, True, "1", None]
NO_FREQ = ["epochs", 0, -1, 1.5, True, None]
NO_NUMBER = [NAN, "0.1", [1.0]]

REQUIRED: dict[str, dict[str, Any]] = {
    "BackupAndRestore": {"backup_dir": "backup"},
    "CSVLogger": {"filename": "log.csv"},
    "JSONLogger": {"path": "log.jsonl"},
    "Journal": {"path": "journal"},
    "LearningRateScheduler": {"schedule": lambda epoch: 0.1},
    "ModelCheckpoint": {"filepath": "{epoch}"},
    "OrbaxCheckpoint": {"directory": "states"},
    "ParamScheduler": {"name": "learning_rate", "schedule": {0: 0.1}},
    "Timer": {"max_steps": 1},
}

# By argument: what is refused. Several arguments that only make no sense together are tested where
# the callback is.
BAD: dict[str, dict[str, list[Any]]] = {
    "BackupAndRestore": {
        "backup_dir": ["", None, 3],
        "save_freq": [*NO_FREQ, False],
        "double_checkpoint": NO_FLAG,
        "delete_checkpoint": NO_FLAG,
        "timeout_s": NO_SECONDS,
    },
    "CSVLogger": {
        "filename": ["", None, 3],
        "separator": ["", ", ", '"', "\n", "\r", None, 3],
        "append": NO_FLAG,
        "timeout_s": NO_SECONDS,
    },
    "DeviceStats": {"log": NO_FLAG},
    "EarlyStopping": {
        "monitor": NO_MONITOR,
        "min_delta": [*NO_NUMBER, INF, None],
        "patience": NO_COUNT,
        "verbose": NO_VERBOSE,
        "mode": NO_MODE,
        "baseline": NO_NUMBER,
        "restore_best_weights": NO_FLAG,
        "start_from_epoch": NO_COUNT,
    },
    "Guard": {
        "nonfinite": ["raise", None, ""],
        "max_norm": [0, -1, INF, *NO_NUMBER],
        "metrics": ["loss", [""], [3], 3, {"loss"}],
        "limit": [0, *(v for v in NO_COUNT if v is not None)],
        "snapshot_every": [0, *NO_COUNT],
        "scale_learning_rate": [0, -1, INF, 0.5, *NO_NUMBER],  # it goes with "rollback"
    },
    "History": {},
    "JSONLogger": {
        "path": ["", None, 3],
        "types": [[], "EpochEnd", [int], 3, fitbus.EpochEnd, [fitbus.EpochEnd(epoch=0)]],
        "every": [0, *NO_COUNT],
        "append": NO_FLAG,
        "on_error": ["ignore", None],
    },
    "Journal": {
        "path": NO_PATH,
        "segment_bytes": [0, *NO_COUNT],
        "keep_segments": [0, -1, 1.5, True, "1"],
        "append": NO_FLAG,
        "on_error": ["ignore", None],
    },
    "LambdaCallback": {
        "on_epoch_begin": ["text", 3],
        "on_epoch_end": ["text", 3],
        "on_train_begin": ["text", 3],
        "on_train_end": ["text", 3],
        "on_train_batch_begin": ["text", 3],
        "on_train_batch_end": ["text", 3],
        "on_test_end": ["text", 3],  # one of `hooks`
        "hooks": [lambda logs: None],  # no hook has that name
    },
    "LearningRateFinder": {
        "min_lr": [0, -1, INF, *NO_NUMBER],
        "max_lr": [0, 1e-7, INF, *NO_NUMBER],
        "steps": [0, 1, *NO_COUNT],
        "mode": ["log", None],
        "smoothing": [-0.1, 1, INF, *NO_NUMBER],
        "diverges_at": [1, -2, INF, *NO_NUMBER],
    },
    "LearningRateScheduler": {
        "schedule": [None, 0.1, lambda: 0.1, lambda a, b, c: 0.1],
        "verbose": NO_VERBOSE,
    },
    "ModelCheckpoint": {
        "filepath": [*NO_PATH, "w.h5", "w.keras", "w.safetensors", "{}", "{0}", "{epoch"],
        "monitor": NO_MONITOR,
        "verbose": NO_VERBOSE,
        "save_best_only": NO_FLAG,
        "save_weights_only": NO_FLAG,
        "mode": NO_MODE,
        "save_freq": NO_FREQ,
        "initial_value_threshold": NO_NUMBER,
        "keep": [0, -1, 1.5, True, "1"],
        "timeout_s": NO_SECONDS,
    },
    "OrbaxCheckpoint": {
        "directory": NO_PATH,
        "monitor": NO_MONITOR,
        "verbose": NO_VERBOSE,
        "save_best_only": NO_FLAG,
        "mode": NO_MODE,
        "save_freq": NO_FREQ,
        "initial_value_threshold": NO_NUMBER,
        "max_to_keep": [0, -1, 1.5, True, "1"],
        "save_on_background": NO_FLAG,
        "save_weights_only": NO_FLAG,
        "timeout_s": NO_SECONDS,
    },
    "ParamScheduler": {
        "name": ["", None, 3],
        "schedule": [None, 0.1, "0.1", {}, [], {-1: 0.1}, {0.5: 0.1}, [(0, 0.1), (0, 0.2)], [0]],
        "by": ["batch", None],
    },
    "ProgressBar": {
        "leave": NO_FLAG,
        "live": NO_FLAG,
        "console": ["stdout", 3],
    },
    "ReduceLROnPlateau": {
        "monitor": NO_MONITOR,
        "factor": [1, 1.5, -0.1, INF, None, *NO_NUMBER],
        "patience": NO_COUNT,
        "verbose": NO_VERBOSE,
        "mode": NO_MODE,
        "min_delta": [INF, None, *NO_NUMBER],
        "cooldown": NO_COUNT,
        "min_lr": [-1, INF, None, *NO_NUMBER],
        "unknown": [1e-4],
        "epsilon": [1e-4],  # one of `unknown`, Keras' name of old
    },
    "RemoteMonitor": {
        "root": ["", None, 3, "localhost", "ftp://localhost", "http://"],
        "path": [None, 3],
        "field": ["", None, 3],
        "headers": ["a: b", {"a": 1}, {1: "a"}, [("a", "b")]],
        "send_as_json": NO_FLAG,
        "timeout_s": NO_SECONDS,
        "retries": NO_COUNT,
        "backoff_s": [-1, INF, NAN, "1", None],
        "room": [0, *NO_COUNT],
        "drain_s": [-1, INF, NAN, "1", None],
    },
    "StopOnDivergence": {
        "monitor": NO_MONITOR,
        "factor": [1, 0, -2, INF, None, *NO_NUMBER],
        "window": [0, *NO_COUNT],
        "patience": [0, *NO_COUNT],
        "action": ["scale", None, ""],
        "scale": [0, 1, -1, INF, None, *NO_NUMBER],
    },
    "SwapEMAWeights": {
        "swap_on_epoch": NO_FLAG,
        "ema": ["ema", 3],
        "decay": [-0.1, 1, "0.9", NAN, True],
    },
    "TensorBoard": {
        "log_dir": ["", None, 3, "gs://bucket/logs", b"logs"],
        "histogram_freq": NO_COUNT,
        "write_graph": NO_FLAG,
        "write_images": NO_FLAG,
        "write_steps_per_second": NO_FLAG,
        "update_freq": ["epochs", 0, -1, 1.5, True, None],
        "profile_batch": [-1, "a", "1,2,3", (3, 2), (1, 2, 3), None, 1.5, "2,1"],
        "embeddings_freq": NO_COUNT,
        "embeddings_metadata": ["", 3, {"w": ""}, {"w": 3}],
        "timeout_s": NO_SECONDS,
    },
    "TerminateOnNaN": {"raise_error": NO_FLAG},
    "Throughput": {
        "log": NO_FLAG,
        "window_s": NO_SECONDS,
        "every_s": NO_SECONDS,
        "publish": NO_FLAG,
    },
    "Timer": {
        "max_seconds": [0, -1, INF, NAN, "1", True],
        "max_steps": [0, -1, 1.5, "1", True],
        "validate": NO_FLAG,
        "verbose": NO_VERBOSE,
    },
}
BAD["ProgbarLogger"] = BAD["ProgressBar"]

CASES = [
    pytest.param(name, argument, value, id=f"{name}-{argument}-{place}")
    for name, arguments in sorted(BAD.items())
    for argument, values in arguments.items()
    for place, value in enumerate(values)
]


@pytest.mark.parametrize(("name", "argument", "value"), CASES)
def test_it_is_refused_by_name(name: str, argument: str, value: Any) -> None:
    """The message says which argument of which callback it is, what was found, and what is good."""
    with pytest.raises(InvalidArgumentError) as raised:
        kind_of(name)(**{**REQUIRED.get(name, {}), argument: value})
    error = raised.value
    named = f"{kind_of(name).__name__}.{argument}"
    assert error.argument == ("LambdaCallback" if argument == "hooks" else named)
    assert repr(error.found) in str(error)
    assert error.allowed in str(error)


@pytest.mark.parametrize("name", NAMES)
def test_every_argument_has_an_entry(name: str) -> None:
    """Whoever adds an argument says what is refused."""
    parameters = inspect.signature(kind_of(name)).parameters
    listed = [argument for argument in BAD[name] if argument in parameters]
    assert listed == list(parameters)
    assert all(BAD[name].values())


@pytest.mark.parametrize("name", sorted(REQUIRED))
def test_what_is_required_is_enough(name: str) -> None:
    """So that the refusals above are those of the argument in question."""
    assert kind_of(name)(**REQUIRED[name])
