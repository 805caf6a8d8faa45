"""Evaluation and prediction beside a run, on a given state."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Iterable
from typing import TYPE_CHECKING, Any, NoReturn, Self, final

from fitbus.errors import DataError
from fitbus.train._attaching import attach_all
from fitbus.train._engine import Engine
from fitbus.train._evaluate import EvaluateJob, evaluate_quietly
from fitbus.train._feed import Feed
from fitbus.train._flight import Flight
from fitbus.train._plain import plain_feed
from fitbus.train._predict import PredictJob, predict_quietly
from fitbus.train._state import TrainState

if TYPE_CHECKING:
    from fitbus.train._run import Run
    from fitbus.train._trainer import Trainer

__all__ = ["Nested"]


@final
class Nested:
    """An evaluation or a prediction that doesn't disturb the run beside which it is made.

    It publishes nothing unless given callbacks; then it is a run of its own.
    """

    def __init__(self, trainer: Trainer, feed: Feed, job: EvaluateJob | PredictJob) -> None:
        self._trainer = trainer
        self._feed = feed
        self._job = job
        self._run: Run[Any] | None = None

    @classmethod
    def evaluate(
        cls,
        trainer: Trainer,
        x: Any,
        y: Any,
        batch_size: int | None,
        sample_weight: Any,
        steps: int | None,
    ) -> Self:
        """An evaluation."""
        feed = plain_feed(
            *(x, y, batch_size, sample_weight, steps),
            task=trainer.steps,
            pull=_no_async,
        )
        return cls(trainer, feed, EvaluateJob(feed))

    @classmethod
    def predict(cls, trainer: Trainer, x: Any, batch_size: int | None, steps: int | None) -> Self:
        """A prediction."""
        feed = plain_feed(
            *(x, None, batch_size, None, steps),
            task=trainer.steps,
            pull=_no_async,
        )
        return cls(trainer, feed, PredictJob(feed))

    def prepared(self, state: TrainState, callbacks: Iterable[Any]) -> Callable[[], Any]:
        """What does it, in any thread that may use the state."""
        trainer, job = self._trainer, self._job
        attached = list(callbacks)
        if not attached:
            quietly = evaluate_quietly if isinstance(job, EvaluateJob) else predict_quietly

            def work() -> Any:
                with contextlib.closing(self._feed):
                    return quietly(trainer.steps, state, self._feed.epoch())

            return work
        from fitbus.train._run import Run  # a run may hold nested ones, and they are runs

        id = trainer.bus.runs.new_id(job.kind)
        run: Run[Any] = Run(trainer, job, id, grace_s=1.0, drain_s=1.0)
        attach_all(run, attached)

        def main() -> Any:
            engine = Engine(
                trainer.bus,
                run.id,
                trainer.steps,
                state,
                flight=Flight("auto", trainer.flush_s),
                inbox=run.inbox,
            )
            engine.beside = True
            run.driver.lead(engine)
            try:
                with contextlib.closing(self._feed):
                    result = job.main(engine)
            finally:
                engine.publisher.close()
            engine.publisher.failures.check()
            return result

        self._run = run
        return main

    def close(self) -> None:
        """Ends its run, if it has one; handlers still get what waits for them. Any thread."""
        if self._run is not None:
            self._trainer.bus.finish_run(self._run.id, drained=False)
            self._run.driver.let_go()


def _no_async(items: AsyncIterator[Any], *, owned: bool) -> NoReturn:
    del owned
    raise DataError("x", f"found {type(items).__name__}; beside a live run, give arrays or a list")
