"""What the end of training does with messages that RemoteMonitor hasn't sent yet."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import anyio
import pytest

import fitbus
from fitbus.callbacks import Callback, Logs
from fitbus.errors import ThreadStuckError
from fitbus.testing import Gate

from ._cancelling import Cancels
from ._failing_server import Serve, counts, epochs, monitor

if TYPE_CHECKING:
    from .conftest import Script

pytestmark = pytest.mark.anyio


async def test_one_that_hangs_holds_the_end_up_for_a_bounded_time(
    script: Script, serve: Serve
) -> None:
    """What isn't sent then is given up."""
    server = serve("hang")
    posts = monitor(server, timeout_s=20, drain_s=0.1)
    started = time.monotonic()
    history = await script.fit([0.0] * 3, posts)
    assert time.monotonic() - started < 5
    assert history.epoch == [0, 1, 2]
    assert counts(posts) == {"failed": 3}


async def test_what_waits_is_bounded_and_the_oldest_gives_way(script: Script, serve: Serve) -> None:
    server = serve("hang")
    posts = monitor(server, timeout_s=20, drain_s=20, room=2, retries=0)

    class Waits(Callback):
        """Lets the next epoch begin when the server has got the first message."""

        def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
            if epoch == 0:
                assert server.came.acquire(timeout=30)
            seen.append(counts(posts))
            if epoch == 5:
                server.let_go()

    seen: list[dict[str, int]] = []
    await script.fit([0.0] * 6, posts, Waits())
    assert seen == [
        *({"waiting": 1}, {"waiting": 2}, {"waiting": 3}),
        *({"waiting": 3, "dropped": n} for n in (1, 2, 3)),
    ]
    assert counts(posts) == {"failed": 1, "dropped": 3, "sent": 2}
    assert epochs(server) == [0, 4, 5]


async def test_it_is_used_again_after_a_cancelled_training_that_it_does_not_hold_up(
    script: Script, serve: Serve
) -> None:
    server = serve("hang")
    posts = monitor(server, timeout_s=20, drain_s=20)
    started = time.monotonic()
    with anyio.CancelScope() as scope:
        await script.fit([0.0] * 16, posts, Cancels(scope), grace_s=0.5)
    assert scope.cancelled_caught
    assert time.monotonic() - started < 5
    assert counts(posts).keys() == {"failed"}
    failed = posts.statistics().failed
    await script.fit([0.0] * 2, posts)
    assert counts(posts) == {"failed": failed, "sent": 2}


async def test_after_a_training_whose_thread_hangs_nothing_waits_any_more(
    script: Script, serve: Serve
) -> None:
    server = serve("hang")
    posts, gate = monitor(server, timeout_s=20, drain_s=20), Gate()

    def hangs(event: fitbus.EpochEnd) -> None:
        gate.pass_sync()

    async def cancel(scope: anyio.CancelScope) -> None:
        await gate.wait_arrived()
        scope.cancel()

    async with anyio.create_task_group() as tasks:
        with anyio.CancelScope() as scope:
            tasks.start_soon(cancel, scope)
            with pytest.raises(ThreadStuckError):
                await script.fit([0.0], posts, hangs, grace_s=0.05, drain_s=0)
    assert counts(posts) == {"failed": 1}
    gate.open()
    with anyio.fail_after(30):
        while True:
            try:
                assert script.trainer.state is not None
                break
            except ThreadStuckError:
                await anyio.lowlevel.checkpoint()
