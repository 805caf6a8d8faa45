"""What training does with what a guarded step saw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, final

import jax

from fitbus.events import StepSkipped
from fitbus.train._guarding import GuardedLayout, Guarding, Verdict
from fitbus.train._state import home_of

if TYPE_CHECKING:
    from fitbus.train._engine import Engine
    from fitbus.train._executions import Gathered
    from fitbus.train._pipeline import Execution, Pipeline

__all__ = ["Guards", "Watch"]


class Guards(Protocol):
    """A callback that guards the steps."""

    @property
    def guarding(self) -> Guarding:
        """What to look at."""
        ...

    def skipped_step(self, engine: Engine, batch: int, step: int, verdict: Verdict) -> StepSkipped:
        """Tells of a step that was left out, before its end is published.

        Args:
            engine: The live run.
            batch: The batch's index.
            step: Completed updates after it.
            verdict: Why.
        """
        ...

    def act(self, engine: Engine) -> object:
        """Acts on a step after which nothing counted, at the boundary that comes next."""
        ...


@final
class Watch:
    """Looks at what the steps of an epoch say, and goes back to where they halted.

    What ran ahead of a step that halts did nothing: it isn't told of, and its batches come again.
    So what comes of it doesn't depend on how many steps were in flight.

    Args:
        engine: The live run.
        guard: Who decides.
        layout: How to read the values of a step.
        batches: Those of the epoch.

    Attributes:
        halted: Whether the steps have halted, and the guard hasn't acted on it yet.
    """

    def __init__(
        self, engine: Engine, guard: Guards, layout: GuardedLayout, batches: Gathered
    ) -> None:
        self._engine = engine
        self._guard = guard
        self._layout = layout
        self._batches = batches
        self._missing: int | None = None  # batches of this epoch that didn't count
        self._counted = 0
        self.halted = False

    def look(self, there: Sequence[Execution]) -> tuple[list[Execution], dict[int, StepSkipped]]:
        """Looks at executions whose values are there.

        Returns:
            Those that did something, and what there is to tell, by batch.
        """
        found: dict[int, StepSkipped] = {}
        last = there[-1]
        end = last.batch + last.steps
        values = last.rows()[-1]
        missing = end - self._layout.counted(values)
        if missing == self._missing:
            self._batches.forget(end)
            return list(there), found
        self._missing = missing
        for place, execution in enumerate(there):
            for ahead, values in enumerate(execution.rows()):
                verdict = self._layout.verdict(values)
                if verdict is None:
                    continue
                batch, step = execution.batch + ahead, execution.step + ahead
                halts = verdict.halts
                if halts:
                    self._halt(batch, step, self._layout.counted(values))
                found[batch] = self._guard.skipped_step(self._engine, batch, step, verdict)
                if halts:
                    cut = execution._replace(steps=ahead + 1)
                    return [*there[:place], cut], found
        self._batches.forget(end)
        return list(there), found

    def goes_back(self, pipeline: Pipeline, *, waits: bool) -> bool:
        """Whether batches that were taken must wait, since the steps before them have halted.

        Args:
            pipeline: The steps in flight.
            waits: Whether to wait for all of them first.
        """
        if waits:
            pipeline.settle()
        if self.halted:
            self._batches.back_to(self._engine.batch, self._engine.batch)
        return self.halted

    def act(self) -> None:
        """Lets the guard act at a boundary if steps have halted; after it, they count again."""
        if not self.halted:
            return
        engine = self._engine
        self.halted = False
        self._guard.act(engine)
        base, _ = engine.running
        counts = jax.device_put(self._layout.counts(self._counted), home_of(engine.state.params))
        engine.running = base, counts

    def act_on_all(self) -> None:
        """The same, for the steps that are in flight too."""
        self._engine.settle()
        self.act()

    def _halt(self, batch: int, step: int, counted: int) -> None:
        """Goes back to the boundary after a batch."""
        engine = self._engine
        self.halted = True
        self._counted = counted
        self._missing = batch + 1 - counted
        engine.examples -= self._batches.back_to(batch + 1, engine.batch)
        if engine.record is not None:
            engine.record.told -= engine.batch - (batch + 1)
        engine.batch, engine.updates = batch + 1, step
        engine.place = self._batches.place
