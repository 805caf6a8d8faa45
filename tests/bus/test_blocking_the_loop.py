"""A loop by hand that would block the event loop which it waits for is told so at once."""

from __future__ import annotations

import anyio
import anyio.to_thread
import pytest

import fitbus
from fitbus import Bus, Callback, EpochEnd, Event, StopTraining, TrainEnd
from fitbus.errors import WouldDeadlockError
from fitbus.testing import EventRecorder, toy_problem

pytestmark = pytest.mark.anyio

PROBLEM = toy_problem(32, 4)
REMEDY = (
    "would block the event loop, which has to go on for that to end; run the training in a thread:"
    " `await anyio.to_thread.run_sync(train, publisher)`"
)


async def test_a_barrier_for_an_async_handler() -> None:
    """Nothing was published; in a thread it works."""
    called: list[Event] = []

    async def report(event: EpochEnd) -> None:
        called.append(event)

    async with Bus() as bus:
        recorder = EventRecorder()
        bus.add(recorder, EpochEnd)
        bus.add(report, name="report")
        publisher = bus.publisher()
        with pytest.raises(WouldDeadlockError) as caught:
            publisher.barrier(EpochEnd())
        assert str(caught.value) == f"waiting for handler 'report' of EpochEnd {REMEDY}"
        assert recorder.events == []
        publisher.barrier(TrainEnd(reason="completed"))  # nobody on the loop waits for it
        await anyio.to_thread.run_sync(publisher.barrier, EpochEnd())
        assert [event.seq for event in called] == [1]


async def test_a_barrier_for_a_def_hook_whose_object_has_async_ones_too() -> None:
    """Its turn comes when its mailbox is empty, which the event loop sees to."""

    class Mixed(Callback):
        def on_epoch_end(self, epoch: int, logs: object = None) -> None:
            called.append("epoch")

        async def on_train_batch_end(self, batch: int, logs: object = None) -> None:
            called.append("batch")

    called: list[str] = []
    trainer = fitbus.Trainer(PROBLEM.task, PROBLEM.params)
    run = trainer.run(PROBLEM.x, PROBLEM.y, callbacks=[Mixed()])
    async with trainer.bus:
        publisher = trainer.bus.publisher(run=run.id)
        with pytest.raises(WouldDeadlockError, match=r"^waiting for handler .*Mixed.* of EpochEnd"):
            publisher.barrier(EpochEnd())
        assert called == []
        publisher.close()
        trainer.bus.finish_run(run.id)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_boundary_that_is_held_for_room(stream: bool) -> None:
    """With a handler or a stream that has none. A stop that was asked for lets it go on."""

    async def slow(event: EpochEnd) -> None: ...

    async with (
        Bus() as bus,
        bus.subscribe(EpochEnd, buffer_size=1, overflow="block" if stream else "latest") as events,
    ):
        if not stream:
            bus.add(slow, wait=False, buffer_size=1, name="slow")
        publisher = bus.publisher()
        publisher.boundary()
        publisher.publish(EpochEnd())
        name = "stream of EpochEnd" if stream else "slow"
        with pytest.raises(WouldDeadlockError) as caught:
            publisher.boundary()
        assert str(caught.value) == f"waiting for room in the mailbox of {name!r} {REMEDY}"
        publisher.post(StopTraining())
        assert [*publisher.boundary()] == [StopTraining()]
        if stream:
            assert (await anext(events)).seq == 0
        else:
            await anyio.to_thread.run_sync(publisher.boundary)
        publisher.boundary()


async def test_standing_still() -> None:
    """Unless there is nothing to wait for. A bus that nobody hosts makes no difference."""
    publisher = Bus().publisher()
    publisher.stand_still(lambda: True)
    with pytest.raises(WouldDeadlockError) as caught:
        publisher.stand_still(lambda: False)
    assert str(caught.value) == f"standing still {REMEDY}"


async def test_a_training_in_another_event_loop_is_let_be() -> None:
    """It blocks a loop which the bus doesn't live in: its handlers go on."""
    called: list[Event] = []

    async def report(event: EpochEnd) -> None:
        called.append(event)

    async with Bus() as bus:
        bus.add(report)
        publisher = bus.publisher()

        async def elsewhere() -> None:
            publisher.barrier(EpochEnd())

        with anyio.fail_after(30):
            await anyio.to_thread.run_sync(anyio.run, elsewhere)
        assert len(called) == 1
