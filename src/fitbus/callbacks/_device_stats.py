"""Tells how much memory training uses, and what it compiles."""

from __future__ import annotations

import contextlib
import math
import sys
import threading
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, final

import jax
import jax.monitoring

from fitbus.callbacks._arguments import check_flag
from fitbus.callbacks._callback import Callback, Logs

if TYPE_CHECKING:
    from fitbus.train import Run

__all__ = ["DeviceStats"]

_TOLD = ("bytes_in_use", "peak_bytes_in_use", "bytes_limit")
_COMPILED = "/jax/core/compile/backend_compile_duration"
_FROM_CACHE = "/jax/compilation_cache/cache_retrieval_time_sec"


@final
class DeviceStats(Callback):
    """Tells, at the beginning, after each epoch and at the end: memory in use, and compilations.

    A GPU's or TPU's allocator tells what is in use, and the peak, which is that of the process,
    not of this training. On the CPU, JAX has no such figures: there it is what live arrays take on
    each device, wherever in the process they are, and of the host what the whole process holds.

    Compilations are those of the training thread, so those of other trainings don't count, nor
    those of `run.predict` beside it. More of them after the first epoch say that shapes change.

    Costs nothing between epochs; at their ends, some microseconds for each live array on a CPU.

    Differs from Keras in being there: Keras has none.

    Args:
        log: Whether the figures are added to the logs of epochs: those of the device that has most
            as `device_bytes_in_use`, `device_peak_bytes_in_use` and `device_bytes_limit`, or
            `device_live_array_bytes`; those of the host as `host_rss_bytes` (Linux) and
            `host_peak_rss_bytes` (not on Windows); and `compilations` and `compilation_s`. Put it
            before what shall see them.

    Attributes:
        devices: By device, such as `"cuda:0"`: `bytes_in_use`, `peak_bytes_in_use` and
            `bytes_limit`, those that its allocator tells; else `live_array_bytes`.
        host: `rss_bytes` and `peak_rss_bytes` of the process, where the system tells.
        compilations: How many programs the training has had compiled so far.
        compilation_s: Seconds that this took.
        cache_hits: How many of them were found in JAX' persistent cache.

    Raises:
        InvalidArgumentError: `log` isn't a bool.

    Source: `jax.Device.memory_stats`, `jax.live_arrays` and `jax.monitoring`.
    """

    adds_logs: ClassVar[bool | frozenset[str]] = False  # unless asked to: see `attach`

    def __init__(self, *, log: bool = False) -> None:
        check_flag("DeviceStats", "log", log)
        self.devices: dict[str, dict[str, int]] = {}
        self.host: dict[str, int] = {}
        self._log = log
        self._compilations = _Compilations()

    @property
    def compilations(self) -> int:
        """How many programs were compiled."""
        return self._compilations.count

    @property
    def compilation_s(self) -> float:
        """Seconds that this took."""
        return self._compilations.seconds

    @property
    def cache_hits(self) -> int:
        """How many of them were found in the persistent cache."""
        return self._compilations.cache_hits

    def attach(self, run: Run[Any]) -> None:
        """Subscribes to a run; `callbacks=[...]` calls it."""
        super().attach(run)
        run.at_end(self._end)  # where no hook is called any more
        if self._log:
            self._look()
            run.preparation.added_logs |= frozenset(self._logs())

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Starts anew: the object can be used again."""
        self._compilations.end()
        self._compilations = _Compilations()
        self._compilations.begin()
        self._look()

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Looks, and adds to the logs where asked to."""
        self._look()
        if self._log and logs is not None:
            logs.update(self._logs())

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Looks for the last time."""
        self._compilations.end()
        self._look()

    def _end(self) -> None:
        self._compilations.end()

    def _look(self) -> None:
        self.devices, self.host = _devices(), _host()

    def _logs(self) -> dict[str, float]:
        found: dict[str, float] = {}
        for figures in self.devices.values():
            for name, size in figures.items():
                found[f"device_{name}"] = max(size, found.get(f"device_{name}", 0))
        found |= {f"host_{name}": size for name, size in self.host.items()}
        return found | {"compilations": self.compilations, "compilation_s": self.compilation_s}


@final
class _Compilations:
    """Counts what one thread has compiled; JAX calls it, in the thread that compiles."""

    def __init__(self) -> None:
        self.count = 0
        self.seconds = 0.0
        self.cache_hits = 0
        self._thread: int | None = None

    def begin(self) -> None:
        """Counts from now on, in the calling thread."""
        self._thread = threading.get_ident()
        jax.monitoring.register_event_duration_secs_listener(self)

    def end(self) -> None:
        """Counts no longer. Any thread; again does nothing."""
        was, self._thread = self._thread, None
        unregister: Any = getattr(jax.monitoring, "unregister_event_duration_listener", None)
        if was is not None and unregister is not None:  # JAX 0.7 has no way: it stays, and is idle
            with contextlib.suppress(AssertionError, ValueError):  # somebody cleared them all
                unregister(self)

    def __call__(self, event: str, duration_secs: float, **kwargs: str | int) -> None:
        if threading.get_ident() != self._thread:
            return
        if event == _COMPILED:
            self.count += 1
            self.seconds += duration_secs
        elif event == _FROM_CACHE:
            self.cache_hits += 1


def _devices() -> dict[str, dict[str, int]]:
    """What each device tells; or what live arrays take on it."""
    told: dict[str, dict[str, int]] = {}
    for device in jax.local_devices():
        stats: dict[str, int] | None = None
        with contextlib.suppress(NotImplementedError, RuntimeError):  # of backends that can't
            stats = device.memory_stats()
        told[_name(device)] = (
            {name: stats[name] for name in _TOLD if name in stats} if stats else {}
        )
    if all(told.values()):
        return told
    live: defaultdict[str, int] = defaultdict(int)
    for array in jax.live_arrays():
        size = math.prod(array.sharding.shard_shape(array.shape)) * array.dtype.itemsize
        for device in array.sharding.addressable_devices:
            live[_name(device)] += size
    return {name: stats or {"live_array_bytes": live[name]} for name, stats in told.items()}


def _name(device: Any) -> str:
    return f"{device.platform}:{device.id}"


def _host() -> dict[str, int]:
    """What the process holds, as far as the system tells."""
    found: dict[str, int] = {}
    with contextlib.suppress(ImportError, OSError):  # there is no such thing on Windows
        import resource

        if sys.platform == "linux":
            pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
            found["rss_bytes"] = pages * resource.getpagesize()
        unit = 1 if sys.platform == "darwin" else 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        # The kernel is behind with both, with the peak by more.
        found["peak_rss_bytes"] = max(peak, found.get("rss_bytes", 0))
    return found
