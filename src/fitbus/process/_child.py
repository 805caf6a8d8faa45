"""What runs in the child process: a factory, and the training that it returns."""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import pickle
import pkgutil
import socket
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any, final

import anyio
from anyio.abc import TaskGroup

from fitbus._loops import LoopHandle, run_in_daemon_thread
from fitbus.control import StopTraining
from fitbus.errors import InvalidArgumentError, RunCancelledError, ThreadStuckError
from fitbus.events import Codec
from fitbus.process._channel import NOTHING, Channel
from fitbus.process._frames import (
    Answer,
    Ask,
    Begin,
    Cancel,
    Controls,
    Ended,
    Failed,
    FromParent,
    Raised,
    Reply,
    Told,
    Wants,
)
from fitbus.process._kinds import encodable, says
from fitbus.process._link import Link

__all__ = ["main"]

_TELL_S = 0.1
_SHARE = 0.8  # of the grace period: what is left of it is the parent's
_logger = logging.getLogger("fitbus")


def main(control: int, events: int) -> None:
    """Does what the parent asks for, over the sockets with these file descriptors."""
    faulthandler.enable()
    end = socket.socket(fileno=events)
    end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 15)  # what lags is to be felt here
    channel: Channel[FromParent] = Channel(socket.socket(fileno=control), FromParent)
    begin = channel.receive()
    if isinstance(begin, Begin):
        _Child(channel, Channel(end, FromParent), begin).work()


@final
class _Child:
    """One training, from its factory to its end."""

    def __init__(
        self, channel: Channel[FromParent], events: Channel[FromParent], begin: Begin
    ) -> None:
        self._channel = channel
        self._events = events
        self._begin = begin
        self._run: Any = None
        self._link: Link | None = None
        self._loop: LoopHandle | None = None
        self._scope: anyio.CancelScope | None = None
        self._tasks: TaskGroup | None = None
        self._lock = threading.Lock()
        self._early: list[Any] = [begin.controls]
        self._is_cancelled = False
        self._states = 0

    def work(self) -> None:
        """Makes the training, does it, and tells how it ended."""
        threading.Thread(target=self._listen, name="fitbus parent", daemon=True).start()
        stuck = False
        try:
            args, parameters, user_types = pickle.loads(self._begin.given)  # noqa: S301  # the parent's
            made = _made(self._begin.factory, args, parameters)
            ended, stuck = anyio.run(self._train, made, Codec(*user_types))
        except BaseException as error:  # noqa: BLE001  # the parent raises it
            ended = _failed("failed", error)
        self._channel.put(ended)
        self._events.flush(self._begin.drain_s)
        self._channel.flush(self._begin.grace_s)
        self._events.shut()  # it is through, however long its own threads keep it
        if stuck:  # a thread that never ends is in the way of a good end
            sys.stdout.flush()
            os._exit(0)

    async def _train(self, made: Any, codec: Codec) -> tuple[Ended, bool]:
        begin = self._begin
        link = Link(self._channel, self._events, codec, begin.wants)
        options = dict(made.options)
        callbacks = [link, options.pop("callbacks", None) or []]
        options |= {"run_id": begin.run, "drain_s": begin.drain_s}
        options["grace_s"] = begin.grace_s * _SHARE
        run: Any = made.trainer.run(made.x, made.y, callbacks=callbacks, **options)
        made.x = made.y = None
        error: BaseException | None = None
        ended = Ended("cancelled", None, [], {}, {}, "", {})
        async with anyio.create_task_group() as self._tasks:
            self._tasks.start_soon(self._tell, run)
            with anyio.CancelScope() as self._scope:
                self._started(run, link)
                try:
                    async with run:
                        await run.wait()
                except anyio.get_cancelled_exc_class():
                    raise
                except BaseException as raised:  # noqa: BLE001  # the parent raises it
                    error = raised
            ended = await self._end(run, error)
            self._tasks.cancel_scope.cancel()
        return ended, isinstance(error, ThreadStuckError)

    def _started(self, run: Any, link: Link) -> None:
        """Takes in what came while the training was made; from here on, what comes."""
        with self._lock:
            self._run, self._link, self._loop = run, link, LoopHandle()
            early, self._early = self._early, []
            for frame in early:
                self._take(frame)
            if self._is_cancelled and self._scope is not None:
                self._scope.cancel()

    async def _end(self, run: Any, error: BaseException | None) -> Ended:
        """What is told of the end."""
        rates: dict[str, float] = {}
        state = ""
        with contextlib.suppress(Exception):  # a state that is lost has none
            rates = await run.hyperparameters()
            if self._begin.keeps_state:
                state = await self._write(run)
        record = run.driver.record
        params, epochs, history = {}, [], {}
        if record is not None:
            params, epochs, history = record.params, record.epoch, record.history
        if isinstance(error, RunCancelledError):
            error = None
        raised = None if error is None else _raised(error)
        self._channel.put(_told(run))
        return Ended(run.status, raised, epochs, _plain(history), _plain(params), state, rates)

    async def _tell(self, run: Any) -> None:
        """Tells the run's counters now and then, and looks whether the parent is there."""
        while True:
            self._channel.put(_told(run))
            if os.getppid() != self._begin.parent:
                self._channel.shut()  # another process may hold the other end of the socket
            await anyio.sleep(_TELL_S)

    async def _answer(self, ask: Ask) -> None:
        """Answers a question."""
        value: Any = None
        error = ""
        try:
            if ask.what == "snapshot":
                value = await self._write(self._run)
            else:
                value = await self._run.hyperparameters()
        except Exception as raised:  # noqa: BLE001  # who asked gets it
            error = f"{type(raised).__name__}: {says(raised)}"
        self._channel.put(Answer(ask.number, value, error))

    async def _write(self, run: Any) -> str:
        """Writes the state of a boundary to a file; returns its path."""
        from fitbus.train import save_state_arrays

        state = await run.snapshot()
        self._states += 1
        path = Path(self._begin.directory) / f"state-{self._states}.npz"
        await run_in_daemon_thread(lambda: save_state_arrays(path, state), "fitbus state")
        return str(path)

    # In the thread that listens to the parent.

    def _listen(self) -> None:
        try:
            self._hear()
        except Exception:
            _logger.exception("what the parent process told can't be read; the run ends")
        self._events.shut()
        self._be_alone()

    def _hear(self) -> None:
        while True:
            frame = self._channel.receive()
            if frame is None:
                break
            if frame is NOTHING:
                continue
            with self._lock:
                if isinstance(frame, Cancel):
                    self._cancel()
                elif self._run is None:
                    self._early.append(frame)
                else:
                    self._take(frame)

    def _take(self, frame: Any) -> None:
        link, loop, run = self._link, self._loop, self._run
        assert link is not None
        assert loop is not None
        match frame:
            case Controls():
                link.take_controls(frame)
            case Reply():
                link.take_reply(frame)
            case Wants():
                link.take_wants(frame)
            case Failed(kind, message, interrupts):
                base: Any = BaseException if interrupts else Exception
                error = type(kind, (base,), {"__module__": _OWN})(*filter(None, [message]))
                run.publisher.failures.add(-1, -1, error, f"{kind}: {message}", fatal=True)
                run.publisher.ring()
            case Ask():
                loop.call_soon(lambda: self._ask(frame))
            case _:
                pass

    def _ask(self, ask: Ask) -> None:
        if self._tasks is not None:
            self._tasks.start_soon(self._answer, ask)

    def _cancel(self) -> None:
        self._is_cancelled = True
        if self._loop is not None and self._scope is not None:
            self._loop.call_soon(self._scope.cancel)

    def _be_alone(self) -> None:
        """The parent has gone: ends the run at its next boundary, or soon by force."""
        with contextlib.suppress(Exception), self._lock:
            if self._link is not None:
                self._link.leave_alone()
                stop = StopTraining("the parent process has gone", resumable=True)
                self._run.post(stop, "ProcessRun")
        with Path(os.devnull).open("wb") as nowhere:  # the pipe that the parent read is broken
            os.dup2(nowhere.fileno(), 2)
        time.sleep(self._begin.grace_s)
        os._exit(1)


_OWN = "fitbus.process.parent"


def _made(factory: str, args: Any, parameters: Any) -> Any:
    made: Any = pkgutil.resolve_name(factory)(*args, **parameters)
    from fitbus.train import Training

    if not isinstance(made, Training):
        raise InvalidArgumentError(f"what {factory} returned", made, "return a fitbus Training")
    return made


def _told(run: Any) -> Told:
    now = run.statistics()
    return Told(
        run.status,
        now.seconds,
        now.step,
        now.examples,
        now.input_s,
        now.steps_in_flight,
        now.steps_per_execution,
        now.step_s,
    )


def _failed(status: str, error: BaseException) -> Ended:
    return Ended(status, _raised(error), [], {}, {}, "", {})


def _raised(error: BaseException) -> Raised:
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else ""
    text = encodable("".join(traceback.format_exception(error)))
    own = kind.__module__ == _OWN
    return Raised(name or f"{kind.__module__}.{kind.__qualname__}", says(error), text, own)


def _plain(values: Any) -> Any:
    """Numbers as Python's own."""
    if isinstance(values, dict):
        return {str(key): _plain(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [_plain(value) for value in values]
    to_list = getattr(values, "tolist", None)
    plain = values if to_list is None else to_list()
    return plain if isinstance(plain, int | float | str | bool | None | list) else repr(plain)
