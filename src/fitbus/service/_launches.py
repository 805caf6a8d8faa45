"""Runs that clients started: they queue, their trainers are made, and they run."""

from __future__ import annotations

import functools
import logging
import math
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, final

import anyio

from fitbus._loops import run_in_daemon_thread
from fitbus.control import Control, Receipt
from fitbus.errors import FitbusError
from fitbus.events import Codec, Event
from fitbus.process import ProcessRun
from fitbus.service._factories import Factory
from fitbus.service._hub import Hub
from fitbus.train import Run, Runs, Training

__all__ = ["Launch", "Launches"]

_RATES_S = 1.0
_TICKETS = 256
_logger = logging.getLogger("fitbus")


@final
class Launch:
    """A run that a client asked for, or that the application started.

    Attributes:
        id: Its id, which will be the run's.
        name: The factory's name; empty of one that the application started.
        parameters: What that is given.
        hub: What its events are read from.
        run: The run; None while it waits for its turn, and while its trainer is made.
        error: The kind of error for which there won't be one; what it says is in the log.
        created: When it was asked for, in Unix seconds.
        start: Tells it from a run of the same id that was before, of a service that was restarted.
        rates: The hyperparameters, as read lately, and
        rates_step: the step that they aren't older than; -1 before they were read.
    """

    def __init__(self, id: str, name: str, parameters: Mapping[str, Any]) -> None:
        self.id, self.name, self.parameters = id, name, dict(parameters)
        self.run: Run[Any] | ProcessRun | None = None
        self.hub: Hub | None = None
        self.error = ""
        self.created = time.time()
        self.start = uuid.uuid4().hex[:12]
        self.tickets: dict[str, Receipt] = {}  # of the latest controls that waited
        self.is_off = False  # called off before it began
        self.is_made = False  # its trainer is being made
        self.began = anyio.Event()  # or never will
        self.turn = anyio.CancelScope()  # in which it waits for it, and its trainer is made
        self.rates: dict[str, float] = {}
        self.rates_step = -1
        self._read_at = -math.inf

    async def read_rates(self) -> None:
        """Reads the hyperparameters at a boundary, unless they were read a moment ago."""
        now = time.monotonic()
        run = self.run
        if run is None or run.block.life.final or now < self._read_at + _RATES_S:
            return
        self._read_at = math.inf  # one reading at a time
        try:
            step = run.statistics().step
            self.rates = await run.hyperparameters()
            self.rates_step = step
        except Exception:  # what a broken run does isn't the service's end
            _logger.debug("the hyperparameters of %r can't be read", self.id, exc_info=True)
        finally:
            self._read_at = time.monotonic()

    def ticket_of(self, receipt: Receipt) -> tuple[str, bool]:
        """What one asks with for the outcome of a control, and whether it was made now."""
        for ticket, known in self.tickets.items():
            if known is receipt:
                return ticket, False
        ticket = uuid.uuid4().hex
        self.tickets[ticket] = receipt
        if len(self.tickets) > _TICKETS:
            del self.tickets[next(iter(self.tickets))]
        return ticket, True

    def call_off(self) -> None:
        """Has it never begin, if it hasn't."""
        self.is_off = True
        self.began.set()
        self.turn.cancel()

    @property
    def seq(self) -> int:
        """The number of the run's last event; -1 before the first one."""
        publisher = None if self.run is None else self.run.publisher
        return -1 if publisher is None else publisher.seq - 1

    @property
    def went_on(self) -> bool | None:
        """Whether it went on from a backup, and so does its numbering; None before it began."""
        if self.run is None or self.seq < 0:
            return None
        if self.hub is not None and self.hub.went_on is not None:
            return self.hub.went_on
        resumed = self.run.preparation.resumed
        return resumed is not None and resumed.seq is not None

    @property
    def status(self) -> str:
        """Where it stands: `queued`, `starting`, or a run's status."""
        if self.run is not None:
            return self.run.status
        if self.error:
            return "failed"
        return "stopped" if self.is_off else "starting" if self.is_made else "queued"


@final
class Launches(Mapping[str, Launch]):
    """All that a service shows; the oldest first.

    Args:
        runs: Who owns the runs.
        most: How many of those that clients start run at once; the others wait for their turn.
        waiting: How many may wait.
        codec: Encodes events.
        keep: How many that have ended are shown.
        retain: How many of a run's events are kept in memory.
        processes: The user's types, if those that clients start train in processes of their own.
    """

    def __init__(
        self,
        runs: Runs,
        *,
        most: int,
        waiting: int,
        codec: Codec,
        keep: int,
        retain: int = 10_000,
        processes: Sequence[type[Event | Control]] | None = None,
    ) -> None:
        self._processes = processes
        self._retain = retain
        self._runs = runs
        self._most = most
        self._waiting = waiting
        self._codec = codec
        self._keep = keep
        self._launches: dict[str, Launch] = {}

    def start(self, factory: Factory, parameters: Mapping[str, Any]) -> Launch:
        """Puts one in the queue.

        Raises:
            FitbusError: Too many wait, or the runs aren't open.
        """
        if not self._runs.is_open:
            raise FitbusError("the service isn't open, or ends; try again later")
        if sum(launch.status == "queued" for launch in self._launches.values()) >= self._waiting:
            raise FitbusError(f"{self._waiting} runs wait already; try again later")
        launch = Launch(uuid.uuid4().hex[:12], factory.name, parameters)
        self._launches[launch.id] = launch
        self._trim()
        self._runs.spawn(self._drive, launch, factory)
        return launch

    def hub(self, launch: Launch) -> Hub:
        """What its events are read from; made when it is first asked for."""
        if launch.hub is None:
            assert launch.run is not None
            launch.hub = Hub(launch.run, self._codec, retain=self._retain)
            self._runs.spawn(launch.hub.pump)
        return launch.hub

    @property
    def clients(self) -> int:
        """How many stream."""
        hubs = (launch.hub for launch in self._launches.values())
        return sum(hub.clients for hub in hubs if hub is not None)

    def read_rates(self, launch: Launch) -> None:
        """Has a run's hyperparameters read, for the next who asks; nobody waits for a boundary."""
        if self._runs.is_open:
            self._runs.spawn(launch.read_rates)

    @functools.cached_property
    def _limiter(self) -> anyio.CapacityLimiter:
        """Made in the loop that serves: an application may be made in another one."""
        return anyio.CapacityLimiter(self._most)

    async def _drive(self, launch: Launch, factory: Factory) -> None:
        try:
            with launch.turn:
                await self._limiter.acquire_on_behalf_of(launch)
            if launch.turn.cancelled_caught:
                return
            try:
                await self._run(launch, factory)
            finally:
                self._limiter.release_on_behalf_of(launch)
        except (Exception, KeyboardInterrupt, SystemExit) as error:  # isn't the service's end
            launch.error = type(error).__name__
            _logger.exception("run %r of %r couldn't start", launch.id, launch.name)
        finally:
            launch.is_off = launch.run is None
            launch.began.set()

    async def _run(self, launch: Launch, factory: Factory) -> None:
        if launch.is_off or not self._runs.is_open:
            return
        launch.is_made = True
        run = await self._started(launch, factory)
        if run is None:
            return
        launch.run = run
        self.hub(launch)
        launch.began.set()
        await run.block.life.until_over()

    async def _started(self, launch: Launch, factory: Factory) -> Run[Any] | ProcessRun | None:
        """The run, here or in a process of its own; None if it was called off meanwhile."""
        if self._processes is not None:
            there = factory.in_process(launch.parameters, launch.id, self._processes)
            self._runs.own(there)
            return there
        made: Training | None = None
        with anyio.CancelScope() as launch.turn:  # one is used once
            # One that never ends holds up neither the others nor the end of the process.
            make = functools.partial(factory, launch.parameters)
            made = await run_in_daemon_thread(make, f"fitbus {launch.id}, factory")
        if made is None or launch.is_off or not self._runs.is_open:
            return None
        options: Any = {**made.options, "run_id": launch.id}
        return self._runs.start(made.trainer, made.x, made.y, **options)

    def __getitem__(self, id: str) -> Launch:
        """That of an id."""
        self._adopt()
        return self._launches[id]

    def __iter__(self) -> Iterator[str]:
        """The ids."""
        self._adopt()
        return iter(tuple(self._launches))

    def __len__(self) -> int:
        """How many there are."""
        self._adopt()
        return len(self._launches)

    def _adopt(self) -> None:
        """Takes in the runs that the application started itself."""
        for id, run in self._runs.items():
            if id not in self._launches:
                launch = self._launches[id] = Launch(id, "", {})
                launch.run = run
                launch.began.set()
        self._trim()

    def _trim(self) -> None:
        ended = [id for id, each in self._launches.items() if each.status in _FINAL]
        for id in ended[: max(0, len(ended) - self._keep)]:
            if id not in self._runs:
                del self._launches[id]


_FINAL = ("completed", "stopped", "cancelled", "failed")
