"""Progress in a terminal, in a notebook, or in a file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, final

from fitbus.callbacks._arguments import check_flag
from fitbus.callbacks._callback import Callback, Logs
from fitbus.callbacks._progress import AnyBatchEnd, Progress, View, speed
from fitbus.errors import FitbusError, InvalidArgumentError
from fitbus.events import BatchEnd, PredictBatchEnd, TestBatchEnd

if TYPE_CHECKING:
    from rich.console import Console

    from fitbus.callbacks._progress_display import Display
    from fitbus.train import Run

__all__ = ["ProgressBar"]


@final
class ProgressBar(Callback):
    """Shows epochs and batches, live metrics, speed and time left; `fit(verbose=1)` attaches one.

    `fit(verbose=2)` attaches one with `live=False`.

    In a terminal, and in a notebook that has ipywidgets, what goes on is shown live, redrawn twice
    a second, and each epoch leaves a line; elsewhere there are only the lines. Validation inside
    `fit` is silent. `evaluate` and `predict` show their own progress, and leave one line. A number
    of batches that the data don't tell is learned from the first epoch.

    Training never waits for the terminal: a thread of its own writes. Of the batches, four a second
    are looked at, on the event loop. The terminal is left clean whatever ends the run. What `print`
    writes meanwhile, or others through the same console, goes above the bar.

    Differs from Keras in: Keras' `ProgbarLogger` draws a bar at every batch, in the training thread
    and wherever its output goes, so that a log file fills up with it; what it shows is fixed. Here
    it takes arguments, and there is none of Keras'.

    Args:
        leave: Whether epochs, evaluations and predictions leave a line.
        live: Whether what goes on is shown where that is possible; False: lines only.
        console: Where to; rich's own console for standard output unless given.

    Raises:
        InvalidArgumentError: An argument is of the wrong kind.
        FitbusError: rich isn't installed; it comes with the extra `demo`.
    """

    adds_logs: ClassVar[bool | frozenset[str]] = False

    def __init__(
        self, *, leave: bool = True, live: bool = True, console: Console | None = None
    ) -> None:
        try:
            import rich
        except ImportError as error:
            raise FitbusError(
                'ProgressBar needs rich, which isn\'t installed: pip install "fitbus[demo]"'
            ) from error
        check_flag("ProgressBar", "leave", leave)
        check_flag("ProgressBar", "live", live)
        if console is not None and not callable(getattr(console, "print", None)):
            raise InvalidArgumentError(
                "ProgressBar.console", console, "give a console of rich, or None"
            )
        self._leave = leave
        self._live = live
        self._console = rich.get_console() if console is None else console
        self._display: Display | None = None
        self._progress = Progress(None, 1)

    def attach(self, run: Run[Any]) -> None:
        """Subscribes to a run; `callbacks=[...]` calls it."""
        self._progress = Progress(None, 1)
        super().attach(run)
        run.at_end(self.close)  # an evaluation that fails has no event of its end

    def close(self) -> None:
        """Writes what is left, and leaves the terminal clean; the end of a run calls it."""
        display, self._display = self._display, None
        if display is not None:
            display.close()

    # These hooks are `def`, and alone in their subscription: they are called in the training
    # thread, without a way through the event loop, and see what other callbacks added to the logs.

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Begins to show a training."""
        self._begin("fit", BatchEnd)

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Ends it."""
        self.close()

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Shows the epoch."""
        self._progress.begin_epoch(epoch)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Leaves a line, and learns the number of batches."""
        self._progress.end_epoch()
        epochs = str(self._progress.epochs)
        self._leave_line(f"epoch {epoch + 1:{len(epochs)}}/{epochs}", logs)

    def on_test_begin(self, logs: Logs | None = None) -> None:
        """Begins to show an evaluation; inside `fit` it only notes that one goes on."""
        if self._progress.kind == "fit":
            self._progress.begin_validation()
        else:
            self._begin("evaluate", TestBatchEnd)

    def on_test_end(self, logs: Logs | None = None) -> None:
        """Ends it."""
        if self._progress.kind == "fit":
            self._progress.validating = False
        else:
            self._end(logs)

    def on_predict_begin(self, logs: Logs | None = None) -> None:
        """Begins to show a prediction."""
        self._begin("predict", PredictBatchEnd)

    def on_predict_end(self, logs: Logs | None = None) -> None:
        """Ends it."""
        self._end(None)

    def _begin(self, kind: str, batches: type[AnyBatchEnd]) -> None:
        from fitbus.callbacks._progress_display import Display

        assert self.run is not None
        self.close()
        progress = Progress(self.params.get("steps"), self.params.get("epochs", 1), kind)
        self._progress = progress
        self.run.add(
            progress.look,
            batches,
            where=progress.is_due,
            wait=False,
            overflow="latest",
            name="ProgressBar batches",
        )
        self._display = Display(self._console, self._view, live=self._live)

    def _end(self, logs: Logs | None) -> None:
        self._progress.end_epoch()
        self._leave_line(f"{self._progress.kind}  {self._progress.count:,} batches", logs)
        self.close()

    def _leave_line(self, label: str, logs: Logs | None) -> None:
        if self._display is not None and self._leave:
            took = f"{self._progress.took_s:.1f}s"
            self._display.add(label, f"{took:>6}  {speed(self._progress.speed):>14}", logs or {})

    def _view(self) -> View:
        """What goes on at present; in the display's thread."""
        assert self.run is not None
        return self._progress.view(self.run.status)
