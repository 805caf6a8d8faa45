"""The live runs of a bus, each by the publisher that its training thread holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, final

from fitbus.bus._statistics import SubscriberReport
from fitbus.errors import InvalidArgumentError

if TYPE_CHECKING:
    from fitbus.bus._publisher import Publisher
    from fitbus.bus._subscription import Subscription
    from fitbus.bus._tail import Tail

__all__ = ["LiveRuns", "Retired"]


class Retired(NamedTuple):
    """What a subscriber got that ended before a run did that it saw."""

    order: int
    own: SubscriberReport  # of that run
    whole: SubscriberReport  # of all


@final
class LiveRuns:
    """The publishers of a bus, by run. Any thread.

    Args:
        lock: The bus' lock.

    Attributes:
        holding: Those whose threads stand still for room in a mailbox.
    """

    def __init__(self, lock: Any) -> None:
        self.holding: set[Publisher] = set()
        self._lock = lock
        self._publishers: dict[str, Publisher] = {}
        self._latest: tuple[Tail, str] | None = None  # no more of a run that may have ended
        self._ids = 0
        self._past_s = 0.0  # of those that were forgotten

    def new_id(self, kind: str) -> str:
        """A run id that the bus has not used: the same one in every run of a program."""
        with self._lock:
            self._ids += 1
            return f"{kind}-{self._ids}"

    def attach(self, publisher: Publisher) -> None:
        """Takes in a new run."""
        with self._lock:
            if publisher.run in self._publishers:
                raise InvalidArgumentError(
                    "run", publisher.run, "a run of this id is live on the bus; choose another"
                )
            self._publishers[publisher.run] = publisher
            self._latest = publisher.tail, publisher.run

    def forget(self, run: str) -> None:
        """Forgets a run that has ended."""
        with self._lock:
            publisher = self._publishers.pop(run, None)
            if publisher is not None:
                self._past_s += publisher.ledger.seconds

    def of(self, run: str | None) -> list[Publisher]:
        """The publisher of a run, if it is live; those of all for None."""
        with self._lock:
            return [p for p in self._publishers.values() if run in (None, p.run)]

    def get(self, run: str) -> Publisher | None:
        """The publisher of a run; None if it isn't live."""
        return self._publishers.get(run)

    def tail(self, run: str | None) -> tuple[Tail, str] | None:
        """What is kept of a run, and its id; of the latest one, which may have ended, for None."""
        if run is None or (self._latest is not None and self._latest[1] == run):
            return self._latest
        publisher = self._publishers.get(run)
        return None if publisher is None else (publisher.tail, run)

    def reroute(self) -> None:
        """Lets all forget who gets what. The lock is held."""
        for publisher in self._publishers.values():
            publisher.reroute()

    def seconds(self, run: str | None) -> float:
        """How long a run has taken, 0 if it isn't live; for None, how long all have, added up."""
        with self._lock:
            past_s = self._past_s if run is None else 0.0
            return past_s + sum(publisher.ledger.seconds for publisher in self.of(run))

    def retire(self, subscription: Subscription[Any]) -> None:
        """Keeps the report of a subscriber that has ended, for the runs that it saw."""
        with self._lock:
            whole = SubscriberReport.of(subscription)
            for publisher in self.of(subscription.run):
                own = publisher.ledger.report(subscription)
                publisher.retired.append(Retired(subscription.order, own, whole))

    def hold(self, publisher: Publisher) -> None:
        """Notes that a thread stands still for room."""
        with self._lock:
            self.holding.add(publisher)

    def release(self, publisher: Publisher) -> None:
        """Notes that it goes on."""
        with self._lock:
            self.holding.discard(publisher)

    def ring(self) -> None:
        """Lets all threads that stand still look again."""
        for publisher in tuple(self._publishers.values()):
            publisher.ring()

    def __len__(self) -> int:
        """How many are live."""
        return len(self._publishers)
