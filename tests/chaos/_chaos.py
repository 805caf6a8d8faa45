"""A training in which everything happens at random, from a seed; then, what must hold all the same.

`python -m tests.chaos SEED` replays one, `python -m tests.chaos FIRST LAST` a range, from the root
of the repository. What is done is decided by the seed; when it happens, by the machine.
"""

from __future__ import annotations

import contextlib
import functools
import random
import threading
from collections import Counter
from collections.abc import Sequence
from typing import Any

import anyio
import numpy as np

import fitbus
from fitbus import BatchEnd, ControlApplied, ControlRejected, Event, Lagged, Receipt, TrainEnd
from fitbus.errors import ControlRejectedError, FitbusError, HandlerTimeoutError
from fitbus.testing import EventRecorder, toy_problem

from ._handlers import Boom, Handler, a_control

LOOPS: list[tuple[str, dict[str, Any]]] = [
    ("asyncio", {}),
    ("asyncio", {"use_uvloop": True}),
    ("trio", {}),
]
BATCHES = 6  # in an epoch
LIMIT_S = 30.0
PROBLEM = toy_problem(BATCHES * 8, 3)


@functools.cache
def the_trainer() -> fitbus.Trainer:
    """One for all: compiled once."""
    return fitbus.Trainer(PROBLEM.task, PROBLEM.params, seed=3)


class Chaos:
    """One training, and what is looked at when it is over."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.rng = rng = random.Random(seed)  # noqa: S311
        self.loop, self.options = rng.choice(LOOPS)
        self.run: Any = None
        self.given: dict[str, Any] = {}
        self.receipts: list[Receipt] = []
        self.recorder, self.waiting = EventRecorder(), EventRecorder()
        self.handlers = [
            Handler(self._another(), number, lambda: self.run)
            for number in range(rng.randint(1, 6))
        ]

    def _another(self) -> random.Random:
        return random.Random(self.rng.random())  # noqa: S311

    def __call__(self) -> None:
        before = set(threading.enumerate())
        anyio.run(self._main, backend=self.loop, backend_options=self.options)
        new = [thread.name for thread in threading.enumerate() if thread not in before]
        left = [name for name in new if name.startswith("fitbus")]
        assert left == [], f"threads are left: {left}"

    async def _main(self) -> None:
        tasks = {task.id for task in anyio.get_running_tasks()}
        trainer = the_trainer()
        begin = trainer.state
        before = int(begin.step)
        with anyio.fail_after(LIMIT_S):
            await self._train(trainer)
        left = [task.name for task in anyio.get_running_tasks() if task.id not in tasks]
        assert left == [], f"tasks are left: {left}"
        self._check(trainer, before)
        if self.run.status in ("completed", "stopped"):
            with anyio.fail_after(LIMIT_S):
                await self._repeat(trainer, begin)
        with anyio.fail_after(LIMIT_S):
            history = await trainer.fit(PROBLEM.x, PROBLEM.y, batch_size=8)
        assert np.isfinite(history.history["loss"]).all()
        assert trainer.bus.statistics().subscriptions == ()

    def _new_run(self, trainer: fitbus.Trainer) -> Any:
        rng = self.rng

        @fitbus.handler(Event, wait=False, buffer_size=10_000)
        def record(event: Event) -> None:
            self.recorder(event)

        callbacks: list[Any] = [record, *(handler.function() for handler in self.handlers)]
        if rng.random() < 0.5:  # training runs ahead, or not
            callbacks.append(self.waiting)
        self.given = {
            "batch_size": 8,
            "epochs": rng.randint(1, 6),
            "steps_per_execution": rng.choice([1, 1, 3, "auto"]),
            "validation_data": (PROBLEM.x[:16], PROBLEM.y[:16]) if rng.random() < 0.7 else None,
            "validation_batch_size": 8,
        }
        self.run = run = trainer.run(PROBLEM.x, PROBLEM.y, callbacks=callbacks, **self.given)
        if rng.random() < 0.3:
            self.receipts.append(run.post(a_control(rng), "before"))
        return run

    async def _train(self, trainer: fitbus.Trainer) -> None:
        rng = self.rng
        run = self._new_run(trainer)
        cancels = rng.choice(["no", "no", "no", "scope", "body"])
        cancel_s = rng.uniform(0, 0.05)
        senders = [self._another() for _ in range(rng.randint(0, 4))]
        over = threading.Event()
        threads = [
            threading.Thread(target=self._send_from_thread, args=(sender, over))
            for sender in senders[::2]
        ]
        async with anyio.create_task_group() as tasks:
            for sender in senders[1::2]:
                tasks.start_soon(self._send_from_task, sender)
            tasks.start_soon(self._resume)
            tasks.start_soon(self._sample)
            for thread in threads:
                thread.start()
            try:
                with anyio.CancelScope() as scope:
                    async with run:
                        if cancels == "scope":
                            scope.deadline = anyio.current_time() + cancel_s
                        elif cancels == "body":
                            await anyio.sleep(cancel_s)
                            raise Boom("the body")  # noqa: TRY301
                        await run.wait()
            except (Boom, HandlerTimeoutError):
                pass
            except FitbusError as error:
                assert "was cancelled while it ran" in str(error), repr(error)  # noqa: PT017
            finally:
                over.set()
                tasks.cancel_scope.cancel()
        for thread in threads:
            thread.join(LIMIT_S)
            assert not thread.is_alive(), "a sender's thread never got its answer"
        assert run.status in ("completed", "stopped", "cancelled", "failed")

    async def _repeat(self, trainer: fitbus.Trainer, begin: fitbus.TrainState) -> None:
        """Without any handler, and with what was told: it ends the same."""
        state = trainer.state
        trainer.keeper.take_back(begin)
        await trainer.fit(PROBLEM.x, PROBLEM.y, controls=self.recorder.events, **self.given)
        same = np.allclose if self.given["steps_per_execution"] == "auto" else np.array_equal
        assert int(trainer.state.step) == int(state.step), "it took another way"
        for name, value in state.params.items():
            assert same(trainer.state.params[name], value), f"{name}: it ended otherwise"

    def _send_from_thread(self, rng: random.Random, over: threading.Event) -> None:
        for _ in range(rng.randint(1, 8)):
            receipt = self.run.post(a_control(rng), "thread")
            self.receipts.append(receipt)
            if rng.random() < 0.3:
                with contextlib.suppress(ControlRejectedError):
                    receipt.result(LIMIT_S)
            if over.wait(rng.uniform(0, 0.003)):
                return

    async def _send_from_task(self, rng: random.Random) -> None:
        for _ in range(rng.randint(1, 8)):
            if rng.random() < 0.5:
                self.receipts.append(self.run.post(a_control(rng), "task"))
            else:
                with contextlib.suppress(ControlRejectedError, TimeoutError):
                    await self.run.send(a_control(rng), rng.choice([None, 0.0, 0.01]))
            await anyio.sleep(rng.uniform(0, 0.003))

    async def _resume(self) -> None:
        """No pause is for ever."""
        while True:
            await anyio.sleep(0.005)
            self.run.post(fitbus.Resume(), "resume")

    async def _sample(self) -> None:
        """The counters add up at each moment."""
        while True:
            for s in self.run.statistics().subscriptions:
                assert s.published == s.delivered + s.dropped + s.queued + s.in_flight, repr(s)
            await anyio.sleep(0.002)

    def _check(self, trainer: fitbus.Trainer, before: int) -> None:
        events = [event for event in self.recorder.events if not isinstance(event, Lagged)]
        seqs = [event.seq for event in events]
        assert seqs == list(range(len(seqs))), f"seq has gaps: {seqs}"
        assert len(self.recorder.of(TrainEnd)) == 1 or not events
        steps = [event.step for event in self.recorder.of(BatchEnd)]
        assert steps == list(range(before + 1, before + len(steps) + 1)), f"steps: {steps}"
        state = trainer.state
        assert int(state.step) == before + len(steps), "the state isn't that of the last step"
        assert all(np.isfinite(value).all() for value in state.params.values())
        waiting = [event.seq for event in self.waiting.events]
        assert waiting == seqs[: len(waiting)], f"{waiting} isn't the beginning of {seqs}"
        self._check_handlers(events)
        self._check_controls()

    def _check_handlers(self, events: Sequence[Event]) -> None:
        report = self.run.report
        assert report is not None
        for handler in self.handlers:
            assert handler.wrong == [], handler.wrong
            assert handler.seqs == sorted(set(handler.seqs)), f"order of {handler.options}"
            entry = report.by_name[handler.options["name"]]
            matching = sum(isinstance(event, tuple(handler.kinds)) for event in events)
            matching //= handler.options.get("every", 1)
            got = entry.delivered + entry.dropped + entry.undelivered
            assert entry.delivered <= len(handler.seqs) or "timeout" in handler.options, entry
            if handler.goes_on:
                assert got == matching, f"{entry} of {matching}, {handler.options}"
            assert got <= matching, f"{entry} of {matching}, {handler.options}"

    def _check_controls(self) -> None:
        applied = Counter(event.id for event in self.recorder.of(ControlApplied))
        rejected = Counter(event.id for event in self.recorder.of(ControlRejected))
        told = applied + rejected
        assert set(told.values()) <= {1}, f"acknowledged twice: {told}"
        for receipt in [*self.receipts, *(r for h in self.handlers for r in h.receipts)]:
            assert receipt.outcome is not None, f"{receipt} is open"
            is_applied = isinstance(receipt.outcome, fitbus.Applied)
            assert is_applied == (applied[receipt.id] == 1), f"{receipt}, told {told[receipt.id]}"


def replay(seed: int, chaos: type[Chaos] = Chaos) -> None:
    """Runs one; a failure says how to do so again."""
    try:
        chaos(seed)()
    except BaseException as error:
        error.add_note(f"seed {seed}; replay it: python -m tests.chaos {seed}")
        raise
