"""Lines, and under them what goes on at present; one thread writes both."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, final

from rich.console import Console, Group
from rich.errors import LiveError
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from fitbus._html import number
from fitbus.callbacks._progress import Left, View, speed

__all__ = ["Display"]

_REFRESH_S = 0.5
_CLOSE_S = 2.0
_LINES = 1000

_logger = logging.getLogger("fitbus")


@final
class Display:
    """Shows lines that stay and, in a terminal or a notebook, a view that is live.

    A thread of its own writes, so that whoever adds a line never waits for the terminal, and one
    that hangs holds nobody. The view is redrawn every half second, together with the lines that
    came meanwhile. Without a view, lines are written as they come.

    Args:
        console: Where to.
        look: Tells what goes on; called in the display's thread, twice a second.
        live: Whether to show it where that is possible.
    """

    def __init__(self, console: Console, look: Callable[[], View], *, live: bool) -> None:
        self._console = console
        self._look = look
        self._can_be_live = live and _can_be_live(console)
        self._changed = threading.Condition()
        self._lines: deque[Text] = deque(maxlen=_LINES)
        self._lost = 0
        self._closing = False
        self._thread = threading.Thread(target=self._main, name="fitbus progress bar", daemon=True)
        self._thread.start()

    def add(self, left: Left) -> None:
        """Adds a line. Any thread; never waits for the terminal."""
        took, fast = f"{left.took_s:.1f}s", speed(left.speed)
        detail = f"{took:>6}  {fast:>14}"
        line = Text.assemble(
            (left.label, "bold"), "  ", (detail, "cyan"), "  ", _spelled(left.logs)
        )
        line.rstrip()
        with self._changed:
            self._lost += len(self._lines) == _LINES
            self._lines.append(line)
            self._changed.notify_all()

    def close(self) -> None:
        """Writes what is left, leaves the terminal clean; waits for it, two seconds at most."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(_CLOSE_S)

    # The display's thread.

    def _main(self) -> None:
        try:
            with contextlib.ExitStack() as stack:
                live = self._begin(stack)
                while not self._wait(live):
                    self._write(live)
            self._write(None)
        except (Exception, SystemExit) as error:  # noqa: BLE001  # rich exits where a pipe was closed
            _logger.warning("progress can't be shown any more: %r", error)

    def _begin(self, stack: contextlib.ExitStack) -> Live | None:
        if not self._can_be_live:
            return None
        live = Live(
            console=self._console,
            get_renderable=self._render,
            auto_refresh=False,
            transient=True,
            # What others print goes above the view, unless it goes somewhere else altogether.
            redirect_stdout=sys.stdout.isatty(),
            redirect_stderr=sys.stderr.isatty(),
        )
        try:
            stack.enter_context(live)
        except LiveError:  # another live display is on this console, and this rich can't show two
            return None
        live.refresh()
        return live

    def _wait(self, live: Live | None) -> bool:
        """Waits until it is time to write. Returns whether the end has come."""
        with self._changed:
            if live is None:
                self._changed.wait_for(lambda: self._closing or self._lines, _REFRESH_S)
            else:
                self._changed.wait_for(lambda: self._closing, _REFRESH_S)
            return self._closing

    def _write(self, live: Live | None) -> None:
        if live is None:
            self._look()
        with self._changed:
            lines, lost = [*self._lines], self._lost
            self._lines.clear()
            self._lost = 0
        # One write for all of it; a notebook has its own place for the view.
        with contextlib.nullcontext() if self._console.is_jupyter else self._console:
            if lost:
                self._console.print(f"({lost} lines are left out: the terminal was too slow)")
            if live is not None:
                live.refresh()
            if lines:
                text = Text("\n").join(lines)
                self._console.print(text, soft_wrap=not self._can_be_live, highlight=False)

    def _render(self) -> Group:
        view = self._look()
        width = max(10, min(40, self._console.width - 45))
        table = Table.grid(padding=(0, 1))
        for row in view.rows:
            bar = ProgressBar(row.total, row.done, width=width, pulse=row.total is None)
            table.add_row(
                Text(row.label, "bold"), bar, Text(row.amount, "green"), Text(row.text, "cyan")
            )
        logs = _spelled(view.logs)
        logs.no_wrap, logs.overflow = True, "ellipsis"
        return Group(table, logs) if view.logs else Group(table)


def _can_be_live(console: Console) -> bool:
    if console.is_jupyter:
        return importlib.util.find_spec("ipywidgets") is not None
    return console.is_terminal and console.is_interactive


def _spelled(logs: Mapping[str, Any]) -> Text:
    """Names and values."""
    text = Text()
    for name, value in logs.items():
        text.append("  " if text else "")
        text.append(f"{name} ", "dim")
        text.append(number(value))
    return text
