"""What can be asked of a run at any moment, from any thread."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fitbus.train._showing import run_html

if TYPE_CHECKING:
    from fitbus.events import EndReason
    from fitbus.train._driver import Driver

__all__ = ["RunFacts"]


class RunFacts:
    """Properties that wait for nothing."""

    id: str
    driver: Driver

    @property
    def params(self) -> dict[str, Any]:
        """What Keras gives callbacks as `params`: verbose, epochs and steps."""
        return self.driver.params

    @property
    def stopping(self) -> bool:
        """Whether a stop was asked for and has acted."""
        engine = self.driver.engine
        return engine is not None and engine.stopping

    @property
    def stop_reason(self) -> str | None:
        """The reason of the first stop that was asked for and has acted; None if there is none."""
        engine = self.driver.engine
        return None if engine is None or not engine.stops else engine.stops[0].reason

    @property
    def end_reason(self) -> EndReason | None:
        """Why it ends, known when `TrainEnd` is delivered; None before."""
        return None if self.driver.engine is None else self.driver.engine.end_reason

    def _repr_html_(self) -> str:
        """Shows in a notebook where it stands at this moment; never waits."""
        return run_html(self.driver, self.id)
