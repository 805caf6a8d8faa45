"""What cancels a training from within, in its second epoch."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio

from fitbus import EpochEnd
from fitbus.callbacks import Callback, Logs

__all__ = ["Cancels", "cancels_at_end"]


class Cancels(Callback):
    """Cancels a scope when the second epoch begins."""

    def __init__(self, scope: anyio.CancelScope) -> None:
        self._scope = scope

    async def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        if epoch == 1:
            self._scope.cancel()


def cancels_at_end(scope: anyio.CancelScope) -> Callable[[EpochEnd], Awaitable[None]]:
    """A handler that cancels a scope when the second epoch ends."""

    async def cancel(event: EpochEnd) -> None:
        if event.epoch == 1:
            scope.cancel()

    return cancel
