"""Shows `await fit()` beside other work: one event loop trains a model and stays responsive.

Training computes in a thread of its own, so whatever else the loop has to do, here a heartbeat and
a printing subscriber, goes on. The same three lines work in a web service or a notebook.

    python -m fitbus.examples.beside_other_work
"""

from __future__ import annotations

import anyio

import fitbus
from fitbus.testing import toy_problem

PERIOD_S = 0.005


class Heartbeat:
    """Stands for the loop's other work, and measures how late it gets its turn.

    Attributes:
        beats: How often it had its turn.
        lag_s: By how much it was late at the worst, in seconds.
    """

    def __init__(self) -> None:
        self.beats = 0
        self.lag_s = 0.0

    async def run(self) -> None:
        """Beats until it is cancelled."""
        while True:
            due = anyio.current_time() + PERIOD_S
            await anyio.sleep_until(due)
            self.beats += 1
            self.lag_s = max(self.lag_s, anyio.current_time() - due)


# `wait=False`: training doesn't wait for the printing. An `async def` for the end of an epoch would
# otherwise be waited for, so that what it returns could steer the next epoch.
@fitbus.handler(fitbus.EpochEnd, wait=False)
async def report(event: fitbus.EpochEnd) -> None:
    """Prints a line each epoch, on the event loop."""
    print(f"epoch {event.epoch}: loss {event.logs['loss']:.5f} after {event.step} steps")


async def show() -> Heartbeat:
    """Trains, while the heart beats."""
    problem = toy_problem(examples=4096, learning_rate=0.01)
    trainer = fitbus.Trainer(problem.task, problem.params)
    heartbeat = Heartbeat()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(heartbeat.run)
        history = await trainer.fit(problem.x, problem.y, epochs=5, callbacks=[report])
        print(f"{history}, and {heartbeat.beats} heartbeats beside it")
        tasks.cancel_scope.cancel()  # the heart has nothing left to beat for
    return heartbeat


def main() -> None:
    """Runs it, and prints how the loop fared."""
    print(f"the event loop was at most {anyio.run(show).lag_s * 1000:.1f} ms late")


if __name__ == "__main__":
    main()
