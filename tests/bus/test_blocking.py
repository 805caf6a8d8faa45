"""`overflow="block"`: nothing is lost, training is held at a boundary, and what lets it go on."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import anyio
import anyio.to_thread
import pytest

from fitbus import Bus, Control, Event, ScaleLearningRate, StopTraining, Subscription
from fitbus.bus import HandlerOptions, Options, Publisher
from fitbus.control import Applied
from fitbus.errors import RunCancelledError
from fitbus.testing import Gate

pytestmark = pytest.mark.anyio

SIZE = 2


class Tick(Event):
    """What these tests publish."""


class Slow:
    """A handler that waits at a gate in its first call, and raises there if it was told so."""

    def __init__(self) -> None:
        self.gate = Gate()
        self.seen: list[int] = []
        self.error: BaseException | None = None

    async def acall(self, event: Tick) -> None:
        self.seen.append(event.seq)
        await self.gate.pass_async()
        if self.error is not None:
            raise self.error

    def call(self, event: Tick) -> None:
        self.seen.append(event.seq)
        self.gate.pass_sync()


class Training:
    """A loop by hand that publishes in a thread, with a boundary after each event."""

    def __init__(self, publisher: Publisher) -> None:
        self.publisher = publisher
        self.held = Gate()  # opened by the thread when it stands still
        self.controls: list[Control] = []
        self.error: BaseException | None = None
        self.ended = False
        publisher.on_standstill = self.held.open

    async def run(self, count: int) -> None:
        """Publishes events, until the boundary raises."""
        await anyio.to_thread.run_sync(self._train, count, abandon_on_cancel=True)

    def _train(self, count: int) -> None:
        try:
            for _ in range(count):
                self.publisher.publish(Tick())
                self.controls.extend(self.publisher.boundary())
        except BaseException as error:  # noqa: BLE001  # looked at by the test
            self.error = error
        self.ended = True


async def hold(
    bus: Bus,
    release: Callable[[], object],
    *,
    slow: Slow | None = None,
    training: Training | None = None,
) -> Training:
    """Trains until it is held, then does what shall let it go on, and waits for its end."""
    training = Training(bus.publisher()) if training is None else training
    with anyio.fail_after(30):
        if slow is not None:  # the first event is in the handler's hands, and not in its mailbox
            training.publisher.publish(Tick())
            await slow.gate.wait_arrived()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(training.run, SIZE)
            await training.held.pass_async()
            assert not training.ended
            answer = release()
            if answer is not None:
                await answer  # type: ignore[misc]  # of `aclose`
    assert training.ended
    return training


@pytest.mark.parametrize("colour", ["def", "async def"])
async def test_room_lets_training_go_on(colour: str) -> None:
    """Nothing is lost, and the order is kept."""
    slow = Slow()
    async with Bus() as bus:
        handler: Callable[[Tick], Any] = slow.call if colour == "def" else slow.acall
        subscription = bus.add(handler, wait=False, buffer_size=SIZE)
        training = await hold(bus, slow.gate.open, slow=slow)
        await training.run(20)
    assert training.error is None
    assert slow.seen == [*range(1 + SIZE + 20)]
    counts = subscription.statistics()
    assert (counts.dropped, counts.delivered) == (0, 1 + SIZE + 20)
    assert counts.held_s > 0


async def test_reading_a_stream_lets_training_go_on() -> None:
    """One event of a full mailbox is enough."""
    async with Bus() as bus, bus.subscribe(Tick, overflow="block", buffer_size=SIZE) as stream:
        training = await hold(bus, lambda: anext(stream))
        assert training.error is None
        assert stream.statistics().queued == SIZE - 1


async def test_cancelling_the_subscriber_lets_training_go_on() -> None:
    slow = Slow()
    async with Bus() as bus:
        subscription = bus.add(slow.acall, buffer_size=SIZE)
        training = await hold(bus, subscription.cancel, slow=slow)
        assert training.error is None
        slow.gate.open()
    assert slow.seen == [0]


@pytest.mark.parametrize("end", ["cancel", "close"])
async def test_a_stream_that_ends_lets_training_go_on(end: str) -> None:
    """From another thread, or by leaving its block."""
    async with Bus() as bus, bus.subscribe(Tick, overflow="block", buffer_size=SIZE) as stream:
        training = await hold(bus, threading.Thread(target=getattr(stream, end)).start)
        assert training.error is None


async def test_leaving_a_streams_block_lets_training_go_on() -> None:
    async with Bus() as bus:
        stream = bus.subscribe(Tick, overflow="block", buffer_size=SIZE)
        await stream.__aenter__()
        training = await hold(bus, lambda: stream.__aexit__(None, None, None))
        assert training.error is None


@pytest.mark.parametrize("on_error", ["unsubscribe", "stop", "raise"])
async def test_a_subscriber_that_fails_lets_training_go_on(on_error: Any) -> None:
    """Or ends it, if its `on_error` says so; what was in its mailbox is counted."""
    slow = Slow()

    def fail() -> None:
        slow.error = KeyError("broken")
        slow.gate.open()

    async with Bus() as bus:
        options: HandlerOptions = {"on_error": on_error, "buffer_size": SIZE, "name": "slow"}
        bus.add(slow.acall, **options)
        training = await hold(bus, fail, slow=slow)
        assert (training.error is slow.error) is (on_error == "raise")
        await training.run(1)
        assert any(isinstance(c, StopTraining) for c in training.controls) is (on_error == "stop")
        report = await bus.aclose()
    assert slow.seen == [0]
    entry = report.by_name["slow"]
    assert (entry.delivered, entry.undelivered, entry.errors) == (1, SIZE, 1)


@pytest.mark.parametrize(
    "anyio_backend",
    [("asyncio", {}), ("asyncio", {"use_uvloop": True})],
    ids=["asyncio", "uvloop"],
)
async def test_a_subscriber_whose_task_dies_lets_training_go_on() -> None:
    """Cancelled natively, behind the bus' back."""
    slow, tasks = Slow(), list[asyncio.Task[Any] | None]()

    async def call(event: Tick) -> None:
        tasks.append(asyncio.current_task())
        await slow.acall(event)

    def kill() -> None:
        assert tasks[0] is not None
        tasks[0].cancel()

    async with Bus() as bus:
        bus.add(call, buffer_size=SIZE, on_error="log")
        training = await hold(bus, kill, slow=slow)
        assert training.error is None


async def test_a_stop_lets_training_go_on() -> None:
    """The boundary yields it at once, full mailbox or not."""
    slow = Slow()
    async with Bus() as bus:
        bus.add(slow.acall, buffer_size=SIZE)
        publisher = bus.publisher()
        training = await hold(
            bus,
            lambda: publisher.post(StopTraining("enough")) and None,
            slow=slow,
            training=Training(publisher),
        )
        assert training.controls == [StopTraining("enough")]
        slow.gate.open()
    assert slow.seen == [*range(1 + SIZE)]


async def test_cancelling_the_run_ends_the_boundary_that_holds() -> None:
    """It raises there, and doesn't let another step begin first."""
    slow = Slow()
    async with Bus() as bus:
        bus.add(slow.acall, buffer_size=SIZE)
        publisher = bus.publisher()
        training = await hold(
            bus, lambda: publisher.cancel(30.0), slow=slow, training=Training(publisher)
        )
        assert isinstance(training.error, RunCancelledError)
        slow.gate.open()
    assert slow.seen == [*range(1 + SIZE)]


async def test_a_closing_deadline_lets_training_go_on(caplog: pytest.LogCaptureFixture) -> None:
    """Closing waits for the handler up to `drain_s`; what that cuts off is reported."""
    slow = Slow()
    async with Bus() as bus:
        bus.add(slow.acall, buffer_size=SIZE, name="slow", on_error="log")
        training = await hold(bus, lambda: bus.aclose(drain_s=0.01), slow=slow)
        assert training.error is None
        report = await bus.aclose()
    entry = report.by_name["slow"]
    assert (entry.delivered, entry.dropped, entry.undelivered) == (0, 0, 1 + SIZE)
    assert "handler 'slow' was cancelled: it ran on past drain_s" in caplog.text


async def test_closing_does_not_wait_for_a_stream_that_nobody_reads() -> None:
    """Training goes on at once, and the stream still hands out what it has."""
    async with Bus() as bus, bus.subscribe(Tick, overflow="block", buffer_size=SIZE) as stream:
        training = await hold(bus, bus.aclose)
        assert training.error is None
        assert [event.seq async for event in stream] == [*range(SIZE)]


async def test_controls_are_applied_while_training_is_held() -> None:
    """Standing still is a boundary: whoever sends one isn't held as well."""
    slow = Slow()
    async with Bus() as bus:
        bus.add(slow.acall, buffer_size=SIZE)
        publisher = bus.publisher(apply=lambda control, source: 0.5)
        training = Training(publisher)

        async def steer() -> None:
            outcome = await publisher.post(ScaleLearningRate(0.5))
            assert isinstance(outcome, Applied)
            assert outcome.result == 0.5
            assert not training.ended
            slow.gate.open()

        await hold(bus, steer, slow=slow, training=training)
        assert training.error is None


async def test_cancelling_the_slowest_frees_the_others() -> None:
    """They get all that comes, and one of another pace holds training no more than its own."""
    slow, seen = Slow(), list[int]()

    async def fast(event: Tick) -> None:
        seen.append(event.seq)

    async with Bus() as bus:
        bus.add(fast, buffer_size=SIZE)
        slowest = bus.add(slow.acall, buffer_size=SIZE)
        bus.add(fast, buffer_size=SIZE, every=3)
        training = await hold(bus, slowest.cancel, slow=slow)
        await training.run(20)
        slow.gate.open()
    assert training.error is None
    assert slow.seen == [0]
    count = 1 + SIZE + 20
    assert sorted(seen) == sorted([*range(count), *range(2, count, 3)])


async def test_publishing_never_blocks_and_counts_a_loss_past_twice_the_size() -> None:
    """It is called here in the event loop itself, which a wait would lock up."""
    slow = Slow()
    async with Bus() as bus:
        subscription = bus.add(slow.acall, buffer_size=SIZE, name="slow")
        publisher = bus.publisher()
        publisher.publish(Tick())
        await slow.gate.wait_arrived()
        for _ in range(2 * SIZE):
            publisher.publish(Tick())
        assert subscription.statistics().dropped == 0
        for _ in range(3):
            publisher.publish(Tick())
        assert subscription.statistics().dropped == 3
        slow.gate.open()
        report = await bus.aclose()
    assert slow.seen == [*range(1 + 2 * SIZE)]
    assert report.by_name["slow"].dropped == 3
    assert not report.complete


async def test_a_warning_names_the_slow_subscriber_once(caplog: pytest.LogCaptureFixture) -> None:
    """With the run, the size of the mailbox, and what can be done."""
    async with (
        Bus() as bus,
        bus.subscribe(Tick, overflow="block", buffer_size=SIZE) as stream,
        bus.subscribe(Tick, overflow="block", buffer_size=100),
    ):
        training = await hold(bus, lambda: anext(stream))
        for _ in range(2):
            training.held = Gate()
            training.publisher.on_standstill = training.held.open
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(training.run, 1)
                await training.held.pass_async()
                await anext(stream)
    [warning] = [record.getMessage() for record in caplog.records]
    assert warning == (
        f"run 'run-1' is held: subscriber {stream.name!r} has no room in its mailbox of {SIZE}"
        ' events (overflow="block"); make it faster, or choose another overflow'
    )


async def test_only_the_run_that_a_subscriber_listens_to_is_held() -> None:
    async with Bus() as bus:
        one, other = bus.publisher(run="one"), bus.publisher(run="other")
        stream: Subscription[Any] = bus.make_stream(
            [Tick], Options(overflow="block", buffer_size=SIZE), after=None, run="one"
        )
        async with stream:
            for _ in range(SIZE):
                one.publish(Tick())
            training = Training(other)
            with anyio.fail_after(30):
                await training.run(5 * SIZE)
            assert not training.held.arrived
            assert (training.ended, training.error) == (True, None)
