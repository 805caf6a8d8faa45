"""A plain `fit` of Keras in a thread, beside a loop."""

from __future__ import annotations

from typing import Any

import anyio.to_thread

from fitbus.keras import PublishEvents

from ._unmodified import x, y

__all__ = ["calls"]


async def calls(events: PublishEvents, model: Any, call: str = "fit", **options: Any) -> Any:
    """Lets Keras train, evaluate or predict in a thread."""
    given = {"verbose": 0, "batch_size": 16, "callbacks": [events], **options}
    if call == "fit":
        given = {"shuffle": False, **given}
    data = (x,) if call == "predict" else (x, y)

    def train() -> Any:
        with events:
            return getattr(model, call)(*data, **given)

    return await anyio.to_thread.run_sync(train)
