"""Controls on their way to the child, and what became of them."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Container, Generator
from typing import final

import msgspec

from fitbus.bus import Publisher
from fitbus.control import Applied, Inbox, Receipt, Rejected, StopTraining, Superseded
from fitbus.errors import InvalidArgumentError
from fitbus.events import Codec, ControlRejected
from fitbus.process._frames import Controls, Sent, Settled

__all__ = ["Outbox"]

_ELSEWHERE = (
    "the training goes on in a child process: give what sends it to the Training that the factory"
    " returns, so that it runs there"
)
_TOO_LATE = "too late: the run has ended"
_GONE = "too late: the child process has gone"


@final
class Outbox:
    """Passes what comes into the inbox on to the child, in order, and settles the receipts.

    What handlers return that are waited for goes together, and acts where training stands still for
    them: the thread waits until it has. Everything else goes at once.

    Args:
        inbox: Where controls come in.
        codec: Encodes them.

    Attributes:
        codec: The same.
        is_standing: Whether the child stands still for handlers here.
        served: The last group that has acted.
        send: Sends a frame to the child.
        pump: Takes what the child answers; False when it has gone.
    """

    def __init__(self, inbox: Inbox, codec: Codec) -> None:
        self._inbox = inbox
        self.codec = codec
        self._lock = threading.RLock()
        self._open: dict[int, Receipt] = {}
        self._told: deque[Settled] = deque()
        self._refused: list[tuple[Receipt, str]] = []
        self._key = 0
        self._groups = 0
        self._ended = False
        self._is_held = False
        self._thread: int | None = None
        self._publisher: Publisher | None = None
        self.is_standing = False
        self.served = 0
        self.send: Callable[[object], object] = lambda _: None
        self.pump: Callable[[], bool] = lambda: False

    def connect(self, publisher: Publisher) -> None:
        """Takes over the controls of a run that has just begun."""
        self._publisher = publisher
        publisher.desk.pass_on = self.pass_on
        self._inbox.on_post = self._on_post

    def flush(self) -> None:
        """Passes on what came in while they were taken over."""
        if self._inbox:
            self._on_post()
        self._refuse()

    def first(self) -> Controls:
        """Those that wait before the start."""
        with self._lock:
            return Controls(self._taken(), -1)

    @contextlib.contextmanager
    def held(self, *, stands: bool) -> Generator[None]:
        """Keeps what comes in together while handlers are waited for. In the run's thread.

        Args:
            stands: Whether the child waits for them, too.
        """
        with self._lock:
            self._is_held, self.is_standing = True, stands
            self._thread = threading.get_ident()
        try:
            yield
            self.pass_on()
        finally:
            with self._lock:
                self._is_held = self.is_standing = False

    def pass_on(self) -> None:
        """Passes on what waits. In the run's thread."""
        if not self._inbox:
            return
        with self._lock:
            items, group = self._taken(), -1
            if items and self.is_standing:
                group = self._groups = self._groups + 1
            if items:
                self.send(Controls(items, group))
        self._refuse()
        while self.served < group and self.is_standing and self.pump():
            pass

    def settle_after(self, settled: Settled, expected: int | None) -> None:
        """Tells the sender what became of a control, once the event that says so is published.

        Args:
            settled: What became of it.
            expected: The `seq` of the child's next event; None to tell at once.
        """
        if expected is None or settled.seq <= expected:
            self._settle(settled)
        else:
            self._told.append(settled)

    def settle_told(self, expected: int | None) -> None:
        """The same for those that were told before."""
        while self._told and (expected is None or self._told[0].seq <= expected):
            self._settle(self._told.popleft())

    def _settle(self, settled: Settled) -> None:
        with self._lock:
            receipt = self._open.pop(settled.key, None)
        if receipt is None:
            return
        if settled.id >= 0:
            receipt.id = settled.id
        if settled.by >= 0:
            receipt.settle(Superseded(settled.by))
        elif settled.why:
            receipt.settle(Rejected(settled.why))
        else:
            receipt.settle(Applied(settled.step, settled.epoch, settled.result))

    @property
    def is_open(self) -> bool:
        """Whether a sender waits."""
        return bool(self._open)

    def lose(self, *, told: bool) -> None:
        """The child has gone: refuses what it left open, and all that will come.

        Args:
            told: Whether it told of the run's end.
        """
        self.end(_TOO_LATE if told else _GONE, but={settled.key for settled in self._told})

    def end(self, why: str = _TOO_LATE, but: Container[int] = ()) -> None:
        """Refuses what is open, and all that will come.

        Args:
            why: Why.
            but: The keys of those that stay open, since what became of them is known.
        """
        with self._lock:
            self._ended = True
            lost = [key for key in self._open if key not in but]
            receipts = [*map(self._open.pop, lost), *self._inbox.close(why)]
        for receipt in receipts:
            receipt.settle(Rejected(why))

    def _on_post(self) -> None:
        """A control came in; in its sender's thread."""
        publisher = self._publisher
        assert publisher is not None
        with self._lock:
            if self._ended:
                return
            held = self._is_held
            items = [] if held else self._taken()
            if items:
                self.send(Controls(items, -1))
        self._refuse()
        if held:
            publisher.ring()  # whoever waits for handlers passes it on, and so does their end

    def _refuse(self) -> None:
        """Tells of those that can't cross. Without the lock: the bus' is taken here."""
        while self._refused:
            receipt, why = self._refused.pop()
            if self._publisher is not None:
                told = ControlRejected(
                    id=receipt.id, control=receipt.control, source=receipt.source, why=why
                )
                self._publisher.publish(told, held=True)
            receipt.settle(Rejected(why))

    def _taken(self) -> list[Sent]:
        items: list[Sent] = []
        for receipt, _ in self._inbox.take():
            control, encoded, why = receipt.control, b"", ""
            if type(control) not in self.codec.types and control.crosses_processes:
                why = f"the child doesn't know {type(control).__name__}; give it in `user_types`"
            try:
                encoded = self.codec.to_msgpack(control)
                receipt.source.encode()
            except InvalidArgumentError as error:
                why = f"{error.allowed}; {_ELSEWHERE}"
            except Exception as error:  # noqa: BLE001  # such as of a number or a text beyond it
                said = f"{type(error).__name__}: {error}"
                why = why or f"it can't be encoded for the child ({said}); give plain values"
            if why:
                self._refused.append((receipt, why))
                continue
            self._key += 1
            self._open[self._key] = receipt
            items.append(Sent(self._key, msgspec.Raw(encoded), receipt.source, receipt.returned))
            if isinstance(control, StopTraining) and self._publisher is not None:
                self._publisher.desk.stopping = True  # nothing holds it any more
        return items
