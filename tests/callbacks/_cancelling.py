"""What cancels a training from within, in its second epoch."""

from __future__ import annotations

import anyio

from fitbus.callbacks import Callback, Logs

__all__ = ["Cancels", "CancelsAtEnd"]


class _Cancels(Callback):
    def __init__(self, scope: anyio.CancelScope) -> None:
        self._scope = scope

    async def _cancel(self) -> None:
        """Cancels; training, which waits for this hook, goes on when the run knows of it."""
        assert self.run is not None
        engine = self.run.driver.engine
        assert engine is not None
        self._scope.cancel()
        while not engine.publisher.standstill.cancelled:
            await anyio.lowlevel.checkpoint()


class Cancels(_Cancels):
    """Cancels a scope when the second epoch begins."""

    async def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        if epoch == 1:
            await self._cancel()


class CancelsAtEnd(_Cancels):
    """Cancels a scope when the second epoch ends."""

    async def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        if epoch == 1:
            await self._cancel()
