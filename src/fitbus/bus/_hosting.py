"""Which loop a bus lives in, and who hosts which handler."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

from fitbus._loops import LoopHandle
from fitbus.errors import FitbusError

if TYPE_CHECKING:
    from fitbus.bus._bus import Bus
    from fitbus.bus._host import Host
    from fitbus.bus._subscription import Subscription

__all__ = ["Hosting"]


@final
class Hosting:
    """Gives each handler of a bus a host, and another one when that leaves. In the loop.

    Attributes:
        hosts: Who hosts the bus at present.
    """

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._host_of: dict[Subscription[Any], Host] = {}
        self._users = 0  # hosts and open streams
        self.hosts: list[Host] = []

    @property
    def in_use(self) -> bool:
        """Whether a loop may have tasks that wait for the bus. Any thread."""
        return self._users > 0

    @property
    def in_loop(self) -> bool:
        """Whether this is the loop in which the bus is in use. Any thread."""
        loop = self._bus.wakeup.loop
        return loop is not None and self.in_use and loop.is_current()

    def enter_loop(self) -> None:
        """Binds the bus to the running loop, or checks that it is the one it lives in."""
        wakeup = self._bus.wakeup
        with self._bus.lock:
            if self._users == 0 or wakeup.loop is None:
                wakeup.bind(LoopHandle())
            elif not wakeup.loop.is_current():
                raise FitbusError(
                    "this bus is in use in another event loop; a bus lives in one at a time"
                )
            self._users += 1

    def exit_loop(self) -> None:
        """Undoes `enter_loop`. Any thread."""
        with self._bus.lock:
            self._users -= 1

    def add(self, host: Host) -> None:
        """Lets a host take the handlers that have none."""
        self.hosts.append(host)
        self.adopt()

    def remove(self, host: Host) -> None:
        """Gives a host no further handlers."""
        self.hosts.remove(host)

    def hosts_subscription(self, subscription: Subscription[Any]) -> bool:
        """Whether a handler has a task. Any thread."""
        return subscription in self._host_of

    def is_left(self, subscription: Subscription[Any]) -> bool:
        """Whether the host of a handler is being left. Any thread."""
        host = self._host_of.get(subscription)
        return host is None or host.leaving

    def adopt_soon(self) -> None:
        """Starts the tasks that handlers lack; from any thread."""
        loop = self._bus.wakeup.loop
        if not self.hosts or loop is None:
            return
        if loop.is_current():
            self.adopt()
        else:
            loop.call_soon(self.adopt)

    def adopt(self) -> None:
        """Starts the task of each handler that has none."""
        if not self.hosts:
            return
        for subscription in self._bus.subscriptions:
            if subscription.needs_worker and subscription not in self._host_of:
                host = self.hosts[-1]
                self._host_of[subscription] = host
                host.start(subscription)

    def worker_left(self, subscription: Subscription[Any]) -> None:
        """Notes that a handler's task has ended; another host may take it."""
        self._host_of.pop(subscription).left(subscription)
        if subscription.ended:
            self._bus.runs.retire(subscription)
        else:
            self.adopt()

    @property
    def missing(self) -> bool:
        """Whether nobody hosts the bus, so that no handler would be called. Any thread."""
        return not self.hosts and not self._bus.closed

    def check_hosted(self, what: str) -> None:
        """Refuses to wait for handlers that nobody would call."""
        if self.missing:
            raise FitbusError(
                f"{what}, and nobody hosts the bus; write `async with bus:` around the training"
            )
