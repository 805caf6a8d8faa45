"""In which order handlers are called, and that calls of one never overlap."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

import anyio
import anyio.to_thread
import pytest

import fitbus
from fitbus import Bus, EpochBegin, EpochEnd, Event, TrainBegin
from fitbus.bus import Hook, Options, Publisher
from fitbus.testing import Gate

pytestmark = pytest.mark.anyio

T = TypeVar("T")


class Tick(Event):
    """What these tests publish."""

    number: int


class Tock(Tick):
    """A special one."""


async def in_thread(function: Callable[[], T]) -> T:
    """Runs a training loop by hand in a thread."""
    with anyio.fail_after(30):
        return await anyio.to_thread.run_sync(function, abandon_on_cancel=True)


class Watch:
    """Notes events, and whether two calls were ever open at once."""

    def __init__(self) -> None:
        self.seen: list[Event] = []
        self.open = 0
        self.overlaps = 0

    def enter(self, event: Event) -> None:
        self.overlaps += self.open > 0
        self.open += 1
        self.seen.append(event)

    def leave(self) -> None:
        self.open -= 1

    def call(self, event: Event) -> None:
        self.enter(event)
        threading.Event().wait(1e-5)  # lets go of the interpreter: others could come in
        self.leave()

    async def acall(self, event: Event) -> None:
        self.enter(event)
        await anyio.lowlevel.checkpoint()
        self.leave()

    @property
    def places(self) -> list[tuple[str, int]]:
        return [(event.run, event.seq) for event in self.seen]


def publish_from_threads(publisher: Publisher, threads: int, each: int) -> None:
    """Lets several threads publish at once, ticks and tocks in turn."""
    start = threading.Barrier(threads)

    def publish() -> None:
        start.wait()
        for number in range(each):
            publisher.publish(Tock(number=number) if number % 3 == 0 else Tick(number=number))

    workers = [threading.Thread(target=publish) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("colour", ["def", "async def"])
async def test_concurrent_calls_come_in_seq_order_and_never_overlap(
    colour: str, batched: bool
) -> None:
    """Whatever four publishing threads mix; nothing is missing or doubled."""
    watch = Watch()

    def call(given: Any) -> None:
        for event in given if batched else (given,):
            watch.call(event)

    async def acall(given: Any) -> None:
        for event in given if batched else (given,):
            await watch.acall(event)

    async with Bus() as bus:
        bus.add(call if colour == "def" else acall, Tick, wait=False, batched=batched)
        publisher = bus.publisher()
        await in_thread(lambda: publish_from_threads(publisher, 4, 100))
    assert [event.seq for event in watch.seen] == list(range(400))
    assert watch.overlaps == 0


@pytest.mark.parametrize("colour", ["def", "async def"])
async def test_waiting_calls_come_in_seq_order_and_never_overlap(colour: str) -> None:
    """Those for other threads' events among them, which the training thread makes up for."""
    watch = Watch()
    async with Bus() as bus:
        bus.add(watch.call if colour == "def" else watch.acall, Tick, wait=True)
        publisher = bus.publisher()

        def train() -> None:
            other = threading.Thread(target=publish_from_threads, args=(publisher, 2, 100))
            other.start()
            for number in range(50):
                publisher.barrier(Tick(number=number))
                assert not publisher.failures.pending
            other.join(30)
            publisher.close()

        await in_thread(train)
    assert [event.seq for event in watch.seen] == list(range(250))
    assert watch.overlaps == 0


async def test_all_subscribers_of_one_type_see_the_same_events_in_the_same_order() -> None:
    """Handlers of each mode, and a stream; a base class brings the subclasses."""
    watches = [Watch() for _ in range(4)]
    streamed: list[Event] = []
    async with Bus() as bus:
        bus.add(watches[0].call, Tick, wait=True)
        bus.add(watches[1].call, Tick, wait=False)
        bus.add(watches[2].acall, Tick, wait=True)
        bus.add(watches[3].acall, Tick, wait=False)
        tocks = Watch()
        bus.add(tocks.acall, Tock)
        publisher = bus.publisher()
        async with bus.subscribe(Tick) as stream:
            await in_thread(lambda: publish_from_threads(publisher, 4, 60))
            await in_thread(publisher.close)
            async for event in stream:
                streamed.append(event)
                if len(streamed) == 240:
                    break
    assert [event.seq for event in streamed] == list(range(240))
    for watch in watches:
        assert watch.seen == streamed
    assert tocks.seen == [event for event in streamed if isinstance(event, Tock)]


async def test_waiting_async_handlers_of_one_event_run_together_and_before_def_ones() -> None:
    """Each of two async ones needs the other to get on; `def` ones follow in their order."""
    calls: list[str] = []
    first, second = Gate(), Gate()

    def early(event: EpochEnd) -> None:
        calls.append("early")

    async def one(event: EpochEnd) -> None:
        first.open()
        await second.pass_async()
        for _ in range(50):
            await anyio.lowlevel.checkpoint()  # time enough for others to come before
        calls.append("one")

    async def two(event: EpochEnd) -> None:
        await first.pass_async()
        second.open()
        calls.append("two")

    def late(event: EpochEnd) -> None:
        calls.append("late")

    async with Bus() as bus:
        for handler in (early, one, two, late):
            bus.add(handler, EpochEnd, wait=True)
        await in_thread(lambda: bus.publisher().barrier(EpochEnd()))
    assert sorted(calls[:2]) == ["one", "two"]
    assert calls[2:] == ["early", "late"]


async def test_training_goes_on_when_all_waiting_handlers_of_an_event_are_done() -> None:
    """Of two events that follow each other, no call of the second comes before one of the first."""
    calls: list[tuple[str, int]] = []

    def handler(name: str, checkpoints: int) -> Callable[[Tick], Any]:
        async def handle(event: Tick) -> None:
            for _ in range(checkpoints):
                await anyio.lowlevel.checkpoint()
            calls.append((name, event.number))

        return handle

    async with Bus() as bus:
        bus.add(handler("quick", 0), Tick, wait=True)
        bus.add(handler("slow", 20), Tick, wait=True)
        publisher = bus.publisher()
        await in_thread(lambda: [publisher.barrier(Tick(number=i)) for i in range(3)])
    assert calls == [(name, number) for number in range(3) for name in ("quick", "slow")]


@pytest.mark.parametrize("wait", [True, False])
@pytest.mark.parametrize("colour", ["def", "async def"])
async def test_a_handler_shared_by_two_runs_never_overlaps(colour: str, wait: bool) -> None:
    """Its calls come in `seq` order within each of them."""
    watch = Watch()
    async with Bus() as bus:
        bus.add(watch.call if colour == "def" else watch.acall, Tick, wait=wait)

        start = threading.Barrier(2)

        def train() -> None:
            publisher = bus.publisher()
            start.wait(30)
            for number in range(100):
                publisher.barrier(Tick(number=number))

        async with anyio.create_task_group() as tasks:
            for _ in range(2):
                tasks.start_soon(in_thread, train)
    for run in ("run-1", "run-2"):
        assert [seq for found, seq in watch.places if found == run] == list(range(100))
    assert len(watch.seen) == 200
    assert watch.overlaps == 0


@pytest.mark.parametrize("colour", ["def", "async def"])
async def test_a_waiting_hook_runs_after_what_is_before_it_in_the_mailbox(colour: str) -> None:
    """The hooks of one subscriber are one queue: the barrier stands until it is through."""
    watch, gate = Watch(), Gate()
    goes_on: list[int] = []

    async def gathers(event: Event) -> None:
        await gate.pass_async()
        await watch.acall(event)

    async with Bus() as bus:
        waiting: Callable[[Event], Any] = watch.call if colour == "def" else watch.acall
        hooks: dict[type[Event], Hook] = {
            Tick: Hook(gathers, is_async=True, wait=False),
            EpochEnd: Hook(waiting, is_async=colour != "def", wait=True),
        }
        bus.attach_subscription([Tick, EpochEnd], Options(), name="both", hooks=hooks)
        publisher = bus.publisher()

        def train() -> None:
            for number in range(10):
                publisher.publish(Tick(number=number))
            publisher.barrier(EpochEnd())
            goes_on.append(len(watch.seen))
            publisher.publish(Tick(number=10))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(in_thread, train)
            await gate.wait_arrived()
            await anyio.wait_all_tasks_blocked()
            assert (watch.seen, goes_on) == ([], [])
            gate.open()
    assert [type(event) for event in watch.seen] == [Tick] * 10 + [EpochEnd, Tick]
    assert goes_on == [11]
    assert watch.overlaps == 0


async def test_the_hooks_of_a_callback_that_fails_meanwhile_do_not_hold_training() -> None:
    """Its concurrent hook raises while training stands still for the turn of its `def` hook."""
    gate = Gate()
    called: list[Event] = []

    async def breaks(event: Event) -> None:
        await gate.pass_async()
        raise ValueError(event.seq)

    async with Bus() as bus:
        hooks: dict[type[Event], Hook] = {
            Tick: Hook(breaks, is_async=True, wait=False),
            EpochEnd: Hook(called.append, is_async=False, wait=True),
        }
        bus.attach_subscription([Tick, EpochEnd], Options(), name="both", hooks=hooks)
        publisher = bus.publisher()

        def train() -> None:
            publisher.publish(Tick(number=0))
            publisher.barrier(EpochEnd())
            with pytest.raises(ValueError, match="0"):
                publisher.boundary()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(in_thread, train)
            await gate.wait_arrived()
            gate.open()
    assert called == []


async def test_two_types_of_one_handler_are_one_queue() -> None:
    """A handler of several types gets them in the order in which they were published."""
    names: list[str] = []

    async def note(event: TrainBegin | EpochBegin | Tick) -> None:
        names.append(type(event).__name__)

    async with Bus() as bus:
        bus.add(note)
        publisher = bus.publisher()
        for event in (TrainBegin(epochs=1), Tick(number=0), EpochBegin(), Tock(number=1)):
            publisher.publish(event)
    assert names == ["TrainBegin", "Tick", "EpochBegin", "Tock"]


async def test_handlers_that_compare_equal_are_two() -> None:
    """Adding one twice, or two that are equal, calls it twice for each event; each is cancelled
    by itself.
    """

    class Equal:
        def __init__(self) -> None:
            self.numbers: list[int] = []

        def __call__(self, event: Tick) -> None:
            self.numbers.append(event.number)

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Equal)

        def __hash__(self) -> int:
            return 0

    one, other = Equal(), Equal()
    bus = fitbus.Bus()
    subscriptions = [bus.add(one, Tick), bus.add(other, Tick), bus.add(one, Tick)]
    publisher = bus.publisher()
    publisher.barrier(Tick(number=0))
    subscriptions[0].cancel()
    publisher.barrier(Tick(number=1))
    assert one.numbers == [0, 0, 1]
    assert other.numbers == [0, 1]
