"""Where handlers are: the lines that a thread, or a task that waits, has got to."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterable, Mapping
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fitbus.bus._subscription import Subscription

__all__ = ["Stack", "called_in", "compiles", "place_of", "text"]

Stack = list[FrameType]  # the innermost call first

# What calls handlers: what is outside of these frames is ours, what is inside is the handler's. A
# frame of theirs has the subscription as a local variable of this name.
_CALLERS = ("fitbus.bus._worker", "fitbus.bus._in_thread")
_LOCAL = "subscription"
_WRAPPERS = ("fitbus.callbacks._hooks",)  # between them and a callback's hook
_LIBRARIES = ("anyio", "asyncio", "outcome", "trio", "uvloop")
_COMPILERS = (
    "jax._src.compiler",
    "jax._src.interpreters.mlir",
    "jax._src.interpreters.partial_eval",
)
_MOST = 20  # innermost frames that are shown


def called_in(thread: int) -> tuple[Subscription[Any] | None, Stack]:
    """The handler that a thread is in, None for none, and its stack.

    It is read while the thread goes on: it may have left by the time that it is shown.
    """
    return _called_from(_current_frames().get(thread))


def place_of(subscription: Subscription[Any]) -> Stack:
    """The stack of a subscriber's handler: in the thread that it runs in, or where it awaits."""
    for frame in _current_frames().values():
        found, stack = _called_from(frame)
        if found is subscription:
            return stack
    return _awaiting(subscription.coroutine)


def compiles(stack: Stack) -> bool:
    """Whether JAX traces or compiles there."""
    return any(_module(frame).startswith(_COMPILERS) for frame in stack)


def text(stack: Stack) -> str:
    """Its lines as in a traceback, the innermost call last."""
    if not stack:
        return "  (nothing of it is to be seen)"
    inner = [(frame, frame.f_lineno) for frame in reversed(stack[:_MOST])]
    lines = traceback.StackSummary.extract(iter(inner)).format()
    return ("" if len(stack) <= _MOST else "  ...\n") + "".join(lines).rstrip()


def _current_frames() -> Mapping[int, FrameType]:
    frames = sys._current_frames  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  # documented, for this
    return frames()


def _called_from(frame: FrameType | None) -> tuple[Subscription[Any] | None, Stack]:
    stack: Stack = []
    while frame is not None:
        if _module(frame) in _CALLERS:
            found = frame.f_locals.get(_LOCAL)
            if found is not None:
                return found, _unwrapped(stack)
        else:
            stack.append(frame)
        frame = frame.f_back
    return None, _within_library(stack)


def _awaiting(coroutine: Any) -> Stack:
    """The frames of a suspended coroutine, down to the first one of a library."""
    frames: list[FrameType] = []
    while coroutine is not None:
        frame = next(
            (f for n in ("cr", "gi", "ag") if (f := getattr(coroutine, f"{n}_frame", None))), None
        )
        if frame is None:
            break
        if _module(frame) not in _CALLERS:
            frames.append(frame)
            if _is_library(frame):
                break
        names = ("cr_await", "gi_yieldfrom", "ag_await")
        coroutine = next((c for n in names if (c := getattr(coroutine, n, None))), None)
    return _unwrapped(list(reversed(frames)))


def _within_library(stack: Stack) -> Stack:
    """What an event loop has called: its own frames, and those of whoever started it, are left."""
    begun = False
    for place, frame in enumerate(stack):
        if _is_library(frame) and begun:
            return stack[:place]
        begun = begun or not _is_library(frame)
    return stack


def _unwrapped(stack: Iterable[FrameType]) -> Stack:
    return [frame for frame in stack if _module(frame) not in _WRAPPERS]


def _is_library(frame: FrameType) -> bool:
    return _module(frame).split(".")[0] in _LIBRARIES


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))
