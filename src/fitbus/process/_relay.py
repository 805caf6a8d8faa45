"""The thread that stands for the training thread: it publishes what the child tells."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any, final

from fitbus._history import History
from fitbus.bus import Publisher
from fitbus.control import StopTraining
from fitbus.errors import RunCancelledError
from fitbus.events import (
    ControlApplied,
    EpochEnd,
    Event,
    RunPaused,
    RunResumed,
    TrainBegin,
    TrainEnd,
)
from fitbus.process._asking import Asking
from fitbus.process._channel import NOTHING, readable
from fitbus.process._controls import Outbox
from fitbus.process._frames import (
    Answer,
    Ended,
    Events,
    Failed,
    Reply,
    Served,
    Settled,
    Standing,
    Steps,
    Told,
    Wants,
)
from fitbus.process._kinds import PLAIN, PRECEDING, may_stand, plain_logs, says, tags_of, together
from fitbus.process._spawning import Spawned

__all__ = ["Relay"]

_LOOK_S = 0.005
_GIVE_WAY_S = 5e-5  # in which the event loop gets the interpreter's lock, if it wants that


@final
class Relay:
    """Publishes events with the times and steps that they had, and runs waiting handlers.

    Their `seq` is the child's, but for what is published here (`HandlerFailed`, `run.publish`):
    that takes a place among them, and those that follow have as many more.

    Args:
        publisher: The run's end of the bus.
        spawned: The child.
        outbox: Passes controls on.
        asking: What was asked.

    Attributes:
        began: What was told of the beginning; None before.
        told: The counters that were told last; None before.
        ended: What was told of the end; None before.
        end: The event of the end; None before.
        stop: The first stop that acted; None if there is none.
        record: The logs of the epochs that have ended.
        is_paused: Whether training stands still until `Resume`.
    """

    def __init__(
        self, publisher: Publisher, spawned: Spawned, outbox: Outbox, asking: Asking
    ) -> None:
        self._publisher = publisher
        self._channel = spawned.channel
        self._events = spawned.events
        self._outbox = outbox
        self._asking = asking
        self._codec = outbox.codec
        self._kinds = [kind for kind in self._codec.types if issubclass(kind, Event)]
        self._unwanted: tuple[type[Event], ...] = ()
        self._expected: int | None = None  # the child's next `seq`
        self._time: float | None = None
        self._thread = 0
        self._failed = False
        self._stands = self._is_cut = False  # whether it stands still; whether the child has gone
        self._wants: Wants | None = None
        self.began: TrainBegin | None = None
        self.told: Told | None = None
        self.ended: Ended | None = None
        self.end: TrainEnd | None = None
        self.stop: StopTraining | None = None
        self.is_paused = False
        self.record = History()
        publisher.delivery.clock = self._clock
        publisher.on_standstill = self._on_standstill

    def wants(self) -> Wants:
        """What the subscribers want now."""
        publisher = self._publisher
        batches = [kind for kind in self._kinds if kind.batch_level]
        wanted = [kind for kind in batches if publisher.wanted(kind)]
        self._unwanted = tuple(kind for kind in batches if kind not in wanted)
        waiting = [k for k in self._kinds if may_stand(k) and publisher.waits(k)]
        self._wants = Wants(tags_of(wanted), tags_of(waiting))
        return self._wants

    def rewant(self) -> None:
        """Tells what the subscribers want, if that has changed. The bus' lock is held."""
        before = self._wants
        if before != self.wants() and not self._publisher.closed:
            self._channel.put(self._wants)

    def work(self) -> None:
        """Publishes, until the child has gone."""
        self._thread = threading.get_ident()
        while True:
            while self.pump(0):
                pass
            frame = self._events.receive(0)
            if frame is None:
                break
            if frame is not NOTHING:
                self._take_events(frame)
            self._between()
            if frame is NOTHING:
                readable([self._events] if self._is_cut else [self._events, self._channel])
        while self.pump(_LOOK_S) or not (self._is_cut or self.ended):
            pass
        self._outbox.settle_told(None)

    def pump(self, timeout_s: float = _LOOK_S) -> bool:
        """Takes what else the child tells, which goes past its events. False: nothing came."""
        if self._is_cut:
            return False
        match self._channel.receive(timeout_s):
            case None:
                self._is_cut = True
                self._asking.end()
                self._outbox.lose(told=self.ended is not None)
                return False
            case Settled() as settled:
                self._outbox.settle_after(settled, None if self._stands else self._expected or 0)
            case Served(group):
                self._outbox.served = max(self._outbox.served, group)
            case Told() as told:
                self.told = told
            case Answer() as answer:
                self._asking.answered(answer)
            case Ended() as ended:
                self.ended = ended
            case _:
                return False
        return True

    def pump_on(self) -> bool:
        """The same for those who wait for an answer. False: there won't be one."""
        self._pump_standing(waits=True)
        return not self._is_cut

    def _pump_standing(self, *, waits: bool) -> bool:
        stood, self._stands = self._stands, True
        try:
            self._outbox.settle_told(None)
            waits = waits or self._asking.is_open or self._outbox.is_open
            return self.pump(_LOOK_S if waits else 0)
        finally:
            self._stands = stood

    def _between(self) -> None:
        """What a training thread does between two steps."""
        if self._failed:
            self._publisher.run_deferred()
            return
        try:
            self._publisher.boundary()
        except BaseException as error:  # noqa: BLE001  # it ends the run, and leaves from `wait`
            if not isinstance(error, RunCancelledError):
                self._fail(error)
        self._outbox.pass_on()

    def _fail(self, error: BaseException) -> None:
        self._failed = True
        interrupts = not isinstance(error, Exception)
        self._channel.put(Failed(type(error).__name__, says(error), interrupts))

    def _take_events(self, frame: Any) -> None:
        match frame:
            case Steps(events):
                self._publish_steps(events)
            case Events(events):
                for raw in events:
                    self._publish(self._decoded(raw))
            case Standing(event):
                self._stand(self._decoded(event))
            case _:
                pass
        self._outbox.settle_told(self._expected)

    def _decoded(self, raw: Any) -> Event:
        event = self._codec.from_msgpack(bytes(raw))
        assert isinstance(event, Event)
        return event

    def _publish(self, event: Event) -> None:
        publisher = self._publisher
        self._between()
        self._place(event)
        if type(event) not in PLAIN:
            self._look_at(event)
        kind = type(event)
        if may_stand(kind) and publisher.waits(kind):
            self._barrier(event, stands=False)
        else:
            publisher.publish(event, held=True)

    def _publish_steps(self, events: Sequence[Event]) -> None:
        """Publishes events of batches, together those that the child had published together."""
        publisher, place = self._publisher, 0
        while place < len(events):
            end = place
            if self._expected is not None:
                end = together(events, place, self._expected)
            group = events[place : max(end, place + 1)]
            place += len(group)
            if len(group) == 1 or any(publisher.waits(kind) for kind in {type(e) for e in group}):
                for event in group:
                    self._publish(event)
                continue
            self._between()
            first = group[0]
            skipped = PRECEDING[type(first)] if first.seq != self._expected else ()
            publisher.epoch, self._time = first.epoch, first.time
            self._expected = group[-1].seq + 1
            publisher.publish_all(group, [event.step for event in group], skipped)
            time.sleep(_GIVE_WAY_S)

    def _stand(self, event: Event) -> None:
        """Publishes what the child waits for, and lets it go on."""
        self._between()
        self._place(event)
        self._look_at(event)
        seq = event.seq
        logs = self._barrier(event, stands=True)
        changed: dict[str, Any] = {}
        try:
            changed = plain_logs(logs, getattr(event, "logs", {}))
        except TypeError as error:  # as where the logs are recorded
            self._publisher.failures.add(seq, -1, error, f"TypeError: {error}", fatal=True)
            self._between()
        self._channel.put(Reply(seq, changed))

    def _barrier(self, event: Event, *, stands: bool) -> dict[str, float]:
        with self._outbox.held(stands=stands):
            return self._publisher.barrier(event)

    def _place(self, event: Event) -> None:
        """Gives the next event its place: the child's, and what was published here besides."""
        publisher, seq = self._publisher, event.seq
        with publisher.lock:
            expected = self._expected or 0
            if seq < expected or self._expected is None:
                publisher.renumber(publisher.seq - expected + seq)
            elif seq > expected:
                first, gap = publisher.seq, seq - expected
                publisher.tail.skip(first, first + gap - 1, self._unwanted, gap)
                publisher.delivery.seq = first + gap
            self._expected = seq + 1
            publisher.step, publisher.epoch, self._time = event.step, event.epoch, event.time

    def _look_at(self, event: Event) -> None:
        match event:
            case TrainBegin():
                self.began = event
            case TrainEnd():
                self.end = event
            case EpochEnd():
                self.record.record(event.epoch, event.logs)
            case RunPaused():
                self.is_paused = True
            case RunResumed():
                self.is_paused = False
            case ControlApplied(control=StopTraining() as stop):
                self.stop = self.stop or stop
                self.is_paused = False
                self._publisher.desk.stopping = True
            case _:
                pass

    def _on_standstill(self) -> None:
        """Takes the answers for which somebody may wait who is waited for himself."""
        if self._pump_standing(waits=False):
            self._publisher.ring()  # to look again at once

    def _clock(self) -> float:
        """The time of what the child told; of what is published here besides, the present one."""
        if self._time is None or threading.get_ident() != self._thread:
            return time.time()
        then, self._time = self._time, None
        return then
