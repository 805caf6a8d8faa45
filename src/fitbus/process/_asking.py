"""Questions to the child, and its answers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, final

import anyio

from fitbus._loops import LoopHandle
from fitbus.errors import FitbusError, RunEndedError
from fitbus.process._frames import Answer, Ask

__all__ = ["Asking"]


@final
class Asking:
    """Keeps what was asked until it is answered.

    Args:
        run: The run's id, for messages.

    Attributes:
        send: Sends a question; there is nobody to answer it before the start.
        ring: Lets the thread look for answers that may stand still.
    """

    def __init__(self, run: str) -> None:
        self._run = run
        self._lock = threading.Lock()
        self._number = 0
        self._open: dict[int, Callable[[Answer | None], object]] = {}
        self._ended = False
        self.send: Callable[[Ask], object] = lambda _: None
        self.ring: Callable[[], object] = lambda: None

    @property
    def is_open(self) -> bool:
        """Whether an answer is waited for."""
        return bool(self._open)

    async def ask(self, what: str) -> Any:
        """Asks, and waits for the answer.

        Raises:
            FitbusError: What the child raised.
            RunEndedError: It has ended.
        """
        done = anyio.Event()
        loop = LoopHandle()
        found: list[Answer | None] = []

        def tell(answer: Answer | None) -> None:
            found.append(answer)
            loop.call_soon(done.set)

        self._ask(what, tell)
        await done.wait()
        return self._value(found[0])

    def ask_here(self, what: str, pump: Callable[[], bool]) -> Any:
        """Asks in the thread that reads the answers."""
        found: list[Answer | None] = []
        self._ask(what, found.append)
        while not found and pump():
            pass
        return self._value(found[0] if found else None)

    def answered(self, answer: Answer) -> None:
        """Passes an answer on."""
        with self._lock:
            tell = self._open.pop(answer.number, None)
        if tell is not None:
            tell(answer)

    def end(self) -> None:
        """Lets nobody wait for one that won't come."""
        with self._lock:
            self._ended = True
            waiting, self._open = list(self._open.values()), {}
        for tell in waiting:
            tell(None)

    def _ask(self, what: str, tell: Callable[[Answer | None], object]) -> None:
        with self._lock:
            ended = self._ended
            self._number += 1
            number = self._number
            if not ended:
                self._open[number] = tell
        if ended:
            tell(None)
            return
        self.send(Ask(number, what))
        self.ring()

    def _value(self, answer: Answer | None) -> Any:
        if answer is None:
            raise RunEndedError(self._run, "it reached another boundary")
        if answer.error:
            raise FitbusError(f"the child process couldn't answer: {answer.error}")
        return answer.value
