"""Progress in a notebook: one output, which a thread of its own renews."""

from __future__ import annotations

import logging
import sys
import threading
import uuid
from collections import deque
from collections.abc import Callable
from numbers import Real
from typing import TYPE_CHECKING, Any, final

from fitbus._html import MOST_POINTS, Points, box, curve, escaped, leading, number, ordered, table

if TYPE_CHECKING:
    from fitbus.callbacks._progress import Left, Row, View

__all__ = ["Line", "NotebookDisplay", "Output", "notebook"]

_REFRESH_S = 0.5
_CLOSE_S = 2.0
_EPOCHS = 5  # the last ones have a row
_NAMES = 6  # of logs, in a row

_logger = logging.getLogger("fitbus")


def notebook() -> Any:
    """The shell of the kernel that this runs in; None elsewhere. IPython isn't imported for it."""
    get_shell = getattr(sys.modules.get("IPython"), "get_ipython", None)
    shell = None if get_shell is None else get_shell()
    return None if getattr(shell, "kernel", None) is None else shell


@final
class Output:
    """An output of the cell that makes it; what is shown later takes the place of the first.

    It is plain HTML, which every notebook stores and shows again. If it can't be shown, that is
    logged once.

    Args:
        shell: The kernel's shell.
        name: The run that is shown: pending at first.
    """

    def __init__(self, shell: Any, name: str) -> None:
        self._shell = shell
        self._transient = {"display_id": f"fitbus-{uuid.uuid4().hex}"}
        self._broken = False
        self._publish(box(name, "pending"), f"{name}: pending", update=False)

    def show(self, html: str, text: str) -> None:
        """Shows something else. Any thread, whatever cell is run meanwhile."""
        self._publish(html, text, update=True)

    def _publish(self, html: str, text: str, *, update: bool) -> None:
        if self._broken:
            return
        data = {"text/html": html, "text/plain": text}
        try:
            self._shell.display_pub.publish(data, transient=self._transient, update=update)
        except Exception as error:  # noqa: BLE001  # training goes on, whatever the notebook does
            self._broken = True
            _logger.warning("progress can't be shown any more: %r", error)


@final
class Line:
    """The points of a line, thinned evenly as they become many."""

    def __init__(self) -> None:
        self._kept: list[tuple[float, float]] = []
        self._last: tuple[float, float] | None = None
        self._stride = 1
        self._seen = 0

    def add(self, x: float, y: float) -> None:
        """Adds a point; what is there of that place and after it was undone, and is forgotten."""
        if self._last == (x, y):
            return
        while self._kept and self._kept[-1][0] >= x:
            self._kept.pop()
        self._last = (x, y)
        self._seen += 1
        if (self._seen - 1) % self._stride:
            return
        self._kept.append(self._last)
        if len(self._kept) == MOST_POINTS:
            del self._kept[1::2]
            self._stride *= 2

    @property
    def points(self) -> list[tuple[float, float]]:
        """Those that are kept, and the last one."""
        last = [] if self._last is None or self._last in self._kept[-1:] else [self._last]
        return [*self._kept, *last]


@final
class NotebookDisplay:
    """Shows in an output what goes on and what was: progress, a curve, and the last epochs.

    Its thread draws and sends twice a second, and once more in the end; so what that costs depends
    neither on how many batches there are, nor on how many epochs.

    Args:
        output: Where to.
        name: What is shown: the run's id.
        look: Tells what goes on; called in the display's thread.
        draws: Whether there is a curve to be drawn.
    """

    def __init__(
        self, output: Output, name: str, look: Callable[[], View], *, draws: bool = True
    ) -> None:
        self._output = output
        self._name = name
        self._look = look
        self._draws = draws
        self._changed = threading.Condition()
        self._closing = False
        self._live = Line()  # running means, as they were seen
        self._drawn: dict[str, Line] = {}  # means of whole epochs
        self._left: deque[Left] = deque(maxlen=_EPOCHS)
        self._thread = threading.Thread(target=self._main, name="fitbus progress bar", daemon=True)
        self._thread.start()

    def add(self, left: Left) -> None:
        """Adds an epoch. Any thread; never waits for the notebook."""
        with self._changed:
            self._left.append(left)
            for name in leading(left.logs):
                value = left.logs[name]
                if isinstance(value, Real):
                    self._drawn.setdefault(name, Line()).add(left.step, float(value))

    def close(self) -> None:
        """Shows how it ended; waits for it, two seconds at most."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(_CLOSE_S)

    def _main(self) -> None:
        try:
            closing = False
            while not closing:
                self._show()
                with self._changed:
                    closing = self._changed.wait_for(lambda: self._closing, _REFRESH_S)
            self._show()
        except Exception as error:  # noqa: BLE001  # training goes on
            _logger.warning("progress can't be shown any more: %r", error)

    def _show(self) -> None:
        view = self._look()
        with self._changed:
            left, final = list(self._left), self._closing
            lines = {name: line.points for name, line in self._drawn.items()}
        parts: list[str] = []
        if not final:
            parts += [_bar(row) for row in view.rows]
            parts.append(_now(view))
        faint: dict[str, Points] = {}
        for name in leading(view.logs)[:1]:
            self._live.add(view.step, view.logs[name])
            if len(self._live.points) > 1:
                faint = {f"{name} within the epoch": self._live.points}
        parts += [curve(lines, "step", faint) if self._draws else "", _table(left)]
        text = f"{self._name}: {view.facts}"
        self._output.show(box(self._name, view.facts, *parts), text)


def _bar(row: Row) -> str:
    """A bar that every browser draws in its own way; without a total it shows no end."""
    reached = "" if row.total is None else f' value="{row.done:.4f}" max="{row.total}"'
    label = escaped(f"{row.label} {row.amount}")
    return (
        f'<div><progress aria-label="{label}" style="width:220px;vertical-align:middle"{reached}>'
        f"</progress> &nbsp;{label} &nbsp;{escaped(row.text)}</div>"
    )


def _now(view: View) -> str:
    """The running means, and the learning rate."""
    names = ordered(view.logs)
    told = [f"{escaped(name)} {escaped(number(view.logs[name]))}" for name in names[:_NAMES]]
    if view.learning_rate is not None:
        told.append(f"learning rate {number(view.learning_rate)}")
    return f"<div>{' &nbsp; '.join(told)}</div>" if told else ""


def _table(left: list[Left]) -> str:
    """The last epochs, or the one evaluation."""
    if not left:
        return ""
    names = ordered({name: None for one in left for name in one.logs})
    shown = names[:_NAMES]
    more = ["…"] if len(names) > _NAMES else []
    rows: list[list[object]] = [["", "time", *shown, *more]]
    for one in left:
        values = [number(one.logs[name]) if name in one.logs else "" for name in shown]
        rows.append([one.label, f"{one.took_s:.1f} s", *values, *more])
    return table(rows)
