"""Progress in a terminal, a notebook or a log file."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, ClassVar, final

from fitbus.bus import Overflow
from fitbus.callbacks._callback import Callback, Logs
from fitbus.errors import FitbusError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

    from fitbus.train import Run

__all__ = ["ProgressBar"]

_REFRESH_S = 0.5


@final
class ProgressBar(Callback):
    """Shows epochs and batches, live metrics, speed and time left; on rich (extra `demo`).

    In a terminal or a notebook it is a bar, redrawn at most twice a second; elsewhere it prints a
    line an epoch. Its batch hooks run on the event loop and look at the newest batch only, so
    training neither waits for it nor runs step by step because of it. Validation inside `fit` is
    silent; an evaluation or a prediction of its own has a bar of its own. Where the number of
    batches isn't known, it is learned from the first epoch. `fit(verbose=1)` adds one.

    Args:
        console: Where to print; rich's default one unless given. Print through the same console,
            and bar and lines don't clash.

    Raises:
        FitbusError: rich isn't installed.
    """

    overflow: ClassVar[Overflow] = "latest"
    adds_logs: ClassVar[bool] = False

    def __init__(self, console: Console | None = None) -> None:
        try:
            import rich.console
        except ImportError as error:
            raise FitbusError(
                'ProgressBar needs rich; install it with `pip install "fitbus[demo]"`'
            ) from error
        self._console = rich.console.Console() if console is None else console
        self._live = self._console.is_terminal or self._console.is_jupyter
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._title = ""
        self._total: int | None = None
        self._done = 0
        self._started = 0.0
        self._drawn = 0.0
        self._fitting = False

    def attach(self, run: Run[Any]) -> None:
        """Subscribes to a run, and sees to it that the terminal is left as it was found."""
        super().attach(run)
        run.at_end(self.close)

    # Training.

    async def on_train_begin(self, logs: Logs | None = None) -> None:
        """Notes how much there is to do."""
        self._fitting = True
        self._total = self.params.get("steps")

    async def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Starts the bar of an epoch."""
        self._begin(f"Epoch {epoch + 1}/{self.params.get('epochs', '?')}")

    async def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Moves it on."""
        self._move(batch + 1, logs)

    async def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Ends the bar of an epoch with the epoch's logs."""
        self._end(logs)
        if self._done:
            self._total = self._total or self._done

    async def on_train_end(self, logs: Logs | None = None) -> None:
        """Leaves the terminal, also where an epoch was cut short."""
        self._fitting = False
        self.close()

    # Evaluation and prediction on their own.

    async def on_test_begin(self, logs: Logs | None = None) -> None:
        """Starts a bar, unless this is a validation."""
        if not self._fitting:
            self._total = self.params.get("steps")
            self._begin("Evaluating")

    async def on_test_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Moves it on."""
        if not self._fitting:
            self._move(batch + 1, logs)

    async def on_test_end(self, logs: Logs | None = None) -> None:
        """Ends it."""
        if not self._fitting:
            self._end(logs)

    async def on_predict_begin(self, logs: Logs | None = None) -> None:
        """Starts a bar."""
        self._total = self.params.get("steps")
        self._begin("Predicting")

    async def on_predict_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Moves it on."""
        self._move(batch + 1, None)

    async def on_predict_end(self, logs: Logs | None = None) -> None:
        """Ends it."""
        self._end(None)

    def close(self) -> None:
        """Leaves the terminal as it was; what was shown stays."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
            self._task = None

    # Drawing: always in the event loop's thread.

    def _begin(self, title: str) -> None:
        self._title = title
        self._done = 0
        self._started = time.perf_counter()
        if not self._live:
            return
        self.close()
        self._bar = _make_bar(self._console)
        self._bar.start()
        self._task = self._bar.add_task(title, total=self._total, speed="", logs="")
        self._bar.refresh()
        self._drawn = time.perf_counter()

    def _move(self, done: int, logs: Logs | None) -> None:
        self._done = done
        now = time.perf_counter()
        if now - self._drawn >= _REFRESH_S:
            self._draw(logs)

    def _end(self, logs: Logs | None) -> None:
        self._total = self._total or self._done or None
        if self._live:
            self._done = self._total if self._total is not None else self._done
            self._draw(logs, total=self._done)
            self.close()
        else:
            elapsed = time.perf_counter() - self._started
            text = " ".join([f"{self._title}: {elapsed:.1f}s", _spelled(logs)]).strip()
            self._console.print(text, soft_wrap=True, highlight=False, markup=False)

    def _draw(self, logs: Logs | None, total: int | None = None) -> None:
        if self._bar is None or self._task is None:
            return
        self._drawn = time.perf_counter()
        elapsed = self._drawn - self._started
        speed = f"{self._done / elapsed:,.0f} steps/s" if elapsed > 0 else ""
        self._bar.update(
            self._task,
            completed=self._done,
            total=self._total if total is None else total,
            speed=speed,
            logs=_spelled(logs),
        )
        self._bar.refresh()


def _make_bar(console: Console) -> Progress:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[logs]}", markup=False),
        console=console,
        auto_refresh=False,  # drawn in the loop, when there is something new
    )


def _spelled(logs: Logs | None) -> str:
    return " ".join(
        f"{name}={value:.4f}" if abs(value) >= 1e-3 or value == 0 else f"{name}={value:.2e}"  # noqa: PLR2004  # as Keras shows them
        for name, value in (logs or {}).items()
        if isinstance(value, int | float)
    )
