"""Receipts: settled once, awaited in tasks, asked in threads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import anyio
import anyio.to_thread
import pytest

from fitbus.control import (
    Applied,
    Inbox,
    Outcome,
    Receipt,
    Rejected,
    SetLearningRate,
    StopTraining,
    Superseded,
)
from fitbus.errors import ControlRejectedError, WouldDeadlockError

pytestmark = pytest.mark.anyio

HERE = Applied(step=3, epoch=1, result={"loss": 0.5})


def receipt() -> Receipt:
    return Inbox().post(SetLearningRate(0.1), "somebody")


def test_the_first_outcome_stays() -> None:
    one = receipt()
    assert one.outcome is None
    assert repr(one) == "<Receipt 0 of SetLearningRate(value=0.1) from 'somebody': open>"
    assert one.settle(HERE)
    assert not one.settle(Rejected("too late"))
    assert one.outcome is HERE
    assert one.result() is HERE
    assert "Applied(step=3, epoch=1" in repr(one)


@pytest.mark.parametrize(
    ("outcome", "message"),
    [
        (Rejected("it has no such thing"), "SetLearningRate was rejected: it has no such thing"),
        (
            Superseded(4),
            (
                "SetLearningRate was rejected: superseded by control 4, sent later for the same"
                " boundary"
            ),
        ),
    ],
)
async def test_what_did_not_act_is_raised_to_all_who_wait(outcome: Outcome, message: str) -> None:
    one = receipt()
    raised: list[str] = []

    async def wait() -> None:
        with pytest.raises(ControlRejectedError) as caught:
            await one
        assert caught.value.control is one.control
        raised.append(str(caught.value))

    async def ask() -> None:
        with pytest.raises(ControlRejectedError) as caught:
            await anyio.to_thread.run_sync(one.result)
        raised.append(str(caught.value))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        tasks.start_soon(ask)
        await anyio.wait_all_tasks_blocked()
        one.settle(outcome)
    assert raised == [message, message]
    with pytest.raises(ControlRejectedError):  # and to whoever comes later
        one.result()


async def test_tasks_and_threads_wait_for_one_receipt() -> None:
    one = receipt()
    got: list[Applied] = []

    async def wait() -> None:
        got.append(await one)

    async def ask() -> None:
        got.append(await anyio.to_thread.run_sync(one.result))

    settler = threading.Thread(target=one.settle, args=(HERE,))
    async with anyio.create_task_group() as tasks:
        for who in (wait, ask, wait, ask):
            tasks.start_soon(who)
        await anyio.wait_all_tasks_blocked()
        settler.start()
    settler.join()
    assert got == [HERE] * 4
    assert await one is HERE
    assert await one.wait(timeout=0.001) is HERE


async def test_a_wait_that_times_out_leaves_it_open() -> None:
    """The message says that it may still act; the receipt then tells that it did."""
    one = receipt()
    with pytest.raises(TimeoutError) as caught:
        await one.wait(timeout=0.001)
    assert str(caught.value) == (
        "SetLearningRate was not acknowledged within 0.001 s (timeout); it may still be applied,"
        " and its receipt will say so"
    )
    assert one.outcome is None
    with pytest.raises(TimeoutError, match="it may still be applied"):
        await anyio.to_thread.run_sync(lambda: one.result(0.001))
    one.settle(HERE)
    assert await one.wait(timeout=5) is HERE


async def test_a_wait_that_is_cancelled_disturbs_nobody() -> None:
    one = receipt()
    got: list[Applied] = []

    async def wait() -> None:
        got.append(await one)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as inner:
                inner.start_soon(wait)
                await anyio.wait_all_tasks_blocked()
                scope.cancel()
        one.settle(HERE)
    assert got == [HERE]


async def test_asking_in_the_event_loop_is_refused_while_it_is_open() -> None:
    """It would block the loop which may have to settle it."""
    one = receipt()
    with pytest.raises(WouldDeadlockError, match="write `await receipt`"):
        one.result(timeout=1)
    one.settle(HERE)
    assert one.result() is HERE


def test_threads_race_to_settle_and_one_wins() -> None:
    for _ in range(50):
        one = Inbox().post(StopTraining())
        start = threading.Barrier(3)
        won: list[Outcome] = []

        def settle(
            outcome: Outcome, one: Receipt = one, start: Any = start, won: Any = won
        ) -> None:
            start.wait()
            if one.settle(outcome):
                won.append(outcome)

        outcomes: list[Outcome] = [HERE, Rejected("no"), Superseded(1)]
        threads = [threading.Thread(target=settle, args=(outcome,)) for outcome in outcomes]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert won == [one.outcome]


async def test_one_who_is_told_after_its_loop_has_gone_is_no_trouble() -> None:
    """Settling calls into loops that may have ended; that must not disturb the settler."""
    one = receipt()

    async def wait_a_little() -> None:
        with anyio.move_on_after(0.001):
            await one

    def other_loop(run: Callable[..., Any] = anyio.run) -> None:
        run(wait_a_little)

    thread = threading.Thread(target=other_loop)
    thread.start()
    await anyio.to_thread.run_sync(thread.join)
    assert one.settle(HERE)
    assert await one is HERE
