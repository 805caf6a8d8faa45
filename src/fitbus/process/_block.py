"""The life of a run in a child process: its start, its end, and every way out."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import tempfile
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, final

import anyio

from fitbus._history import History
from fitbus._loops import run_in_daemon_thread
from fitbus.bus import Block, Publisher
from fitbus.errors import ChildError, FitbusError, RunCancelledError, ThreadStuckError
from fitbus.events import Codec, TrainEnd
from fitbus.process._asking import Asking
from fitbus.process._controls import Outbox
from fitbus.process._frames import Begin, Cancel
from fitbus.process._kinds import says
from fitbus.process._relay import Relay
from fitbus.process._snapshot import Snapshot, read_and_removed
from fitbus.process._spawning import Spawned

if TYPE_CHECKING:
    from fitbus.process._run import ProcessRun

__all__ = ["ProcessBlock"]

_FORCE_S = 2.0  # in which a process that was killed is gone
_EXIT_S = 10.0  # in which one that is through is


@final
class ProcessBlock(Block):
    """Starts a run's process and the thread that listens to it, and sees to both their ends.

    Args:
        run: The run.
        factory: The name of its factory.
        given: What that is given, pickled.
        codec: For what the processes tell each other.
        env: Environment variables of the child, beside those of this process.
        keeps_state: Whether the last state is kept.
        grace_s: Seconds that the child gets to end after a cancellation.
        drain_s: Seconds that subscribers get.

    Attributes:
        publisher: The run's end of the bus; None before the start.
        relay: What listens to the child; None before the start.
        asking: What was asked of it.
        spawned: The child; None before the start.
        state: The last state; None before the end, or if it is lost.
    """

    def __init__(
        self,
        run: ProcessRun,
        factory: str,
        given: bytes,
        codec: Codec,
        *,
        env: Mapping[str, str],
        keeps_state: bool,
        grace_s: float,
        drain_s: float,
    ) -> None:
        super().__init__(grace_s=grace_s, drain_s=drain_s)
        self._run = run
        self._factory = factory
        self._given = given
        self._env = env
        self._keeps_state = keeps_state
        self._outbox = Outbox(run.inbox, codec)
        self.asking = Asking(run.id)
        self.publisher: Publisher | None = None
        self.relay: Relay | None = None
        self.spawned: Spawned | None = None
        self.state: Snapshot | None = None
        self._thread_scope: anyio.CancelScope | None = None
        self._directory = ""
        self._was_forced = False

    async def start(self) -> None:
        """Starts the child, and the thread that listens to it."""
        if self.life.status != "pending":
            raise FitbusError(f"{self._run!r} was started before; make a new one")
        run = self._run
        try:
            self.publisher = Publisher(run.bus, run=run.id, inbox=run.inbox)
            self._directory = tempfile.mkdtemp(prefix="fitbus-")
            weakref.finalize(self, shutil.rmtree, self._directory, ignore_errors=True)
            with anyio.CancelScope(shield=True):  # it takes a moment, and isn't left behind
                self.spawned = await run_in_daemon_thread(
                    lambda: Spawned(self._env), f"fitbus {run.id}, start"
                )
            self._host = await run.bus.hosted().__aenter__()
            assert self.spawned is not None
            self._connect(self.publisher, self.spawned)
        except BaseException as error:
            self._end_unstarted(error)
            if self._host is not None:
                await self._host.__aexit__(None, None, None)
            raise
        self.life.status = "running"
        self._host.tasks.start_soon(self._drive, name=f"fitbus {run.id}")

    def _connect(self, publisher: Publisher, spawned: Spawned) -> None:
        """Lets the two processes know each other."""
        outbox, channel = self._outbox, spawned.channel
        relay = self.relay = Relay(publisher, spawned, outbox, self.asking)
        outbox.pump = relay.pump_on
        self.asking.send, self.asking.ring = channel.put, publisher.ring
        with publisher.lock:  # no subscriber comes between, and no control
            publisher.on_reroute = relay.rewant
            outbox.send = channel.put
            channel.put(
                Begin(
                    self._run.id,
                    self._factory,
                    self._given,
                    relay.wants(),
                    outbox.first(),
                    self.grace_s,
                    self._drain_s,
                    self._directory,
                    self._keeps_state,
                    os.getpid(),
                )
            )
            outbox.connect(publisher)
        outbox.flush()

    def _end_unstarted(self, error: BaseException) -> None:
        """Lets nobody wait for a run that couldn't start."""
        self.life.keep_error(error)
        self._outbox.end(f"too late: the run couldn't start ({type(error).__name__}: {error})")
        self.asking.end()
        self._run.end_streams()
        if self.spawned is not None:
            self.spawned.interrupt()
            self.spawned.close()
        if self.publisher is not None:
            self.publisher.abandon()
            self._run.bus.finish_run(self._run.id)

    async def _cancel(self) -> BaseException | None:
        publisher, spawned = self.publisher, self.spawned
        assert publisher is not None
        assert spawned is not None
        self._drain_s = min(self._drain_s, self.grace_s)
        publisher.cancel(self.grace_s / 2)
        spawned.channel.put(Cancel())
        again: BaseException | None = None
        with anyio.CancelScope(shield=True):
            again = await self._end_by(anyio.current_time() + self.grace_s)
            if not self.life.over:
                self._was_forced = not self.draining
                spawned.interrupt()
                again = await self._end_by(anyio.current_time() + _FORCE_S) or again
            for scope in filter(None, (self._thread_scope, self._drain_scope)):
                scope.cancel()
            again = await self._end_by(math.inf) or again
        return again  # noqa: RET504  # for type checkers a scope may end early

    async def _drive(self) -> None:
        publisher, relay, spawned = self.publisher, self.relay, self.spawned
        assert publisher is not None
        assert relay is not None
        assert spawned is not None
        with anyio.CancelScope(shield=True):
            error: BaseException | None = None
            ended = False
            with anyio.CancelScope() as self._thread_scope:
                error = await run_in_daemon_thread(
                    lambda: self._in_thread(publisher, relay, spawned), f"fitbus {self._run.id}"
                )
                ended = True
            if not ended:
                error = self._abandon(publisher, relay, spawned)
            self.asking.end()
            await self._drain(self._run.bus, self._run.id)
            self._run.end_streams()
            self.life.error = publisher.failures.interrupt or publisher.failures.lead(error)
            self.life.status = self._how_it_ended(relay, self.life.error)
            self._tell_end()
        self.life.end()

    def _in_thread(
        self, publisher: Publisher, relay: Relay, spawned: Spawned
    ) -> BaseException | None:
        """Listens until the child has gone. Returns what ended the run, if that is no handler's."""
        error: BaseException | None = None
        try:
            relay.work()
            spawned.end(_EXIT_S if relay.ended is not None else _FORCE_S)
            error = self._error_of(relay, spawned)
            if relay.end is None and error is not None:
                self._tell_end_of(publisher, relay, error)
        except BaseException as raised:  # noqa: BLE001  # leaves from `wait`
            error = error or raised
            with contextlib.suppress(Exception):  # the first error leads
                self._end_broken(publisher, relay, spawned, error)
        finally:
            self._outbox.end()
            publisher.close()
        self._read(relay)
        return error

    def _end_broken(
        self, publisher: Publisher, relay: Relay, spawned: Spawned, error: BaseException
    ) -> None:
        """Ends what can't be listened to."""
        spawned.interrupt()
        spawned.end(_FORCE_S)
        if relay.end is None:
            self._tell_end_of(publisher, relay, error)

    def _error_of(self, relay: Relay, spawned: Spawned) -> BaseException | None:
        ended = relay.ended
        if ended is None:
            if self._was_forced:
                return RunCancelledError(f"run {self._run.id!r} was cancelled, by force at last")
            return spawned.died()
        if ended.error is not None and ended.error.own:
            return None  # a handler's here, which leads
        if ended.status == "cancelled":
            return RunCancelledError(f"run {self._run.id!r} was cancelled")
        if ended.error is None:
            return None
        error = ChildError(ended.error.kind, ended.error.message)
        error.add_note(f"in the child process:\n{ended.error.traceback}")
        return error

    def _tell_end_of(self, publisher: Publisher, relay: Relay, error: BaseException) -> None:
        """Publishes the end that the child didn't tell of."""
        if isinstance(error, RunCancelledError):
            why = f"killed {self.grace_s:g} s (grace_s) after it was cancelled"
            relay.end = TrainEnd(reason="cancelled", detail=why if self._was_forced else "")
        else:
            relay.end = TrainEnd(reason="failed", detail=f"{type(error).__name__}: {says(error)}")
        publisher.barrier(relay.end)

    def _read(self, relay: Relay) -> None:
        """Takes in what the child left."""
        ended = relay.ended
        if ended is None:
            return
        history = History(ended.params)
        history.go_on(ended.epochs, ended.history)
        self.life.result = history
        if ended.state:
            self.state = read_and_removed(ended.state)

    def _abandon(self, publisher: Publisher, relay: Relay, spawned: Spawned) -> BaseException:
        """Leaves the thread behind in a handler that doesn't end; the child is dead."""
        activity = publisher.thread_calls.calling or "listening to its child process"
        error = ThreadStuckError(activity, self.grace_s)
        self._outbox.end()
        if relay.end is None:
            publisher.publish(TrainEnd(reason="cancelled", detail=str(error)))
        publisher.abandon()
        spawned.shut()
        return error

    def _how_it_ended(self, relay: Relay, error: BaseException | None) -> Any:
        if error is None:
            return relay.ended.status if relay.ended is not None else "failed"
        is_cancelled = isinstance(error, RunCancelledError | ThreadStuckError)
        return "cancelled" if is_cancelled or not isinstance(error, Exception) else "failed"
