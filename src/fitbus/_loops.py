"""From any thread into an event loop, and away from it. Internal."""

from __future__ import annotations

import contextvars
import functools
import threading
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, final

import anyio
from anyio.lowlevel import EventLoopToken, current_token

from fitbus.errors import FitbusError

__all__ = [
    "Alarm",
    "LoopHandle",
    "in_event_loop",
    "in_own_loop",
    "loop_context",
    "run_in_daemon_thread",
]

T = TypeVar("T")


@final
class LoopHandle:
    """A running event loop, to be told something by any thread."""

    def __init__(self) -> None:
        self.token: EventLoopToken = current_token()
        native: Any = self.token.native_token
        # asyncio and uvloop hand out the loop, trio a token of its own.
        self._call_soon: Callable[[Callable[[], object]], object] = (
            native.call_soon_threadsafe
            if hasattr(native, "call_soon_threadsafe")
            else native.run_sync_soon
        )
        self._context = loop_context()

    def call_soon(self, function: Callable[[], object]) -> bool:
        """Lets the loop call `function`, which must not raise. False if the loop has ended."""
        try:
            self._call_soon(functools.partial(self._context.run, function))
        except RuntimeError:  # a closed asyncio loop, or trio's RunFinishedError
            return False
        return True

    def is_current(self) -> bool:
        """Whether the caller runs in this loop."""
        try:
            return current_token().native_token is self.token.native_token
        except RuntimeError:  # AnyIO's NoEventLoopError, or the library's own
            return False


@final
class Alarm:
    """Wakes the one task that sleeps, all in one event loop.

    On asyncio it is a bare future: AnyIO's event, which many may wait for, costs four times as
    much, and that is most of what it takes to hand an event to a handler.
    """

    def __init__(self) -> None:
        native: Any = current_token().native_token
        self._new_future: Callable[[], Any] | None = getattr(native, "create_future", None)
        self._future: Any = None
        self._event = anyio.Event()

    async def sleep(self) -> None:
        """Sleeps until `ring` is called from here on."""
        if self._new_future is None:
            self._event = anyio.Event()
            await self._event.wait()
        else:
            self._future = self._new_future()
            await self._future

    def ring(self) -> None:
        """Wakes the task, if it sleeps."""
        if self._new_future is None:
            self._event.set()
        elif self._future is not None and not self._future.done():
            self._future.set_result(None)


def in_event_loop() -> bool:
    """Whether the caller runs in an event loop's thread, where blocking would stop everybody."""
    try:
        current_token()
    except RuntimeError:
        return False
    return True


def in_own_loop(call: str, function: Callable[[], Awaitable[T]]) -> T:
    """Does what is async in an event loop of its own (asyncio).

    Args:
        call: What to write where a loop is running, such as `trainer.fit`.
        function: Starts it.

    Raises:
        FitbusError: Called inside a running event loop.
    """
    if in_event_loop():
        raise FitbusError(
            f"{call.rpartition('.')[2]}_sync would block the running event loop; write"
            f" `await {call}(...)`"
        )

    async def main() -> T:
        return await function()

    return anyio.run(main)


def loop_context() -> contextvars.Context:
    """The caller's context variables, for what starts tasks from a callback.

    AnyIO knows the event loop by the running task, and a callback is none; but also by a variable,
    which `anyio.run` sets, and others don't.
    """
    context = contextvars.copy_context()
    is_asyncio = hasattr(current_token().native_token, "call_soon_threadsafe")
    context.run(_note_library, "asyncio" if is_asyncio else "trio")
    return context


async def run_in_daemon_thread(
    function: Callable[[], T], name: str, on_abandoned: Callable[[], object] | None = None
) -> T:
    """Runs a function in a thread of its own, with a copy of the caller's context variables.

    Unlike `anyio.to_thread` it takes nothing from AnyIO's limiter or pool, and a function that
    never returns can't keep the process from exiting. `anyio.from_thread` works in it. Cancelling
    the caller leaves the thread behind; `on_abandoned` is then called when it ends.
    """
    # AnyIO has no public way to say "this thread belongs to that loop" of a thread not its own.
    from anyio._core._eventloop import claim_worker_thread

    loop = LoopHandle()
    done = anyio.Event()
    outcome: list[Callable[[], T]] = []
    abandoned = False
    lock = threading.Lock()
    context = contextvars.copy_context()
    context.run(_note_library, None)
    backend: Any = _NamingBackend(loop.token)

    def main() -> None:
        with claim_worker_thread(backend, loop.token.native_token):
            try:
                value = context.run(function)
            except BaseException as error:  # noqa: BLE001  # handed to the caller as it is
                outcome.append(_raiser(error))
            else:
                outcome.append(lambda: value)
        with lock:
            left = abandoned
        if left:
            if on_abandoned is not None:
                on_abandoned()
        else:
            loop.call_soon(done.set)

    thread = threading.Thread(target=main, name=name, daemon=True)
    thread.start()
    try:
        await done.wait()
    except BaseException:
        with lock:
            abandoned = not outcome
        if not abandoned and on_abandoned is not None:
            on_abandoned()
        raise
    thread.join()  # it has told, and is at its last instructions
    return outcome[0]()


@final
class _NamingBackend:
    """AnyIO's backend as `anyio.from_thread` uses it, but naming the loop whenever it calls there.

    Unnamed, trio only knows the loop in threads of its own making.
    """

    def __init__(self, token: EventLoopToken) -> None:
        self._backend = token.backend_class
        self._native = token.native_token

    def run_async_from_thread(self, func: Any, args: Any, token: object) -> Any:
        return self._backend.run_async_from_thread(func, args, token or self._native)

    def run_sync_from_thread(self, func: Any, args: Any, token: object) -> Any:
        return self._backend.run_sync_from_thread(func, args, token or self._native)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)


def _note_library(name: str | None) -> None:
    """Notes which event loop runs in this thread, or that none does, as `anyio.run` notes it."""
    try:
        from sniffio import current_async_library_cvar
    except ImportError:  # then AnyIO looks for no such note
        return
    current_async_library_cvar.set(name)


def _raiser(error: BaseException) -> Callable[[], Any]:
    def throw() -> Any:
        raise error

    return throw
