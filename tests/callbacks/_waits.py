"""Whether training waits for handlers of a batch, or runs ahead of them."""

from __future__ import annotations

from typing import Any

from fitbus.events import BatchBegin, BatchEnd
from fitbus.train import Run


def waits(run: Run[Any] | None) -> list[bool]:
    """For those of a batch's begin, and of its end, in a run that goes on."""
    assert run is not None
    engine = run.driver.engine
    assert engine is not None
    return [engine.publisher.waits(kind) for kind in (BatchBegin, BatchEnd)]
