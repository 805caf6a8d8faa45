"""Progress in a terminal, in a notebook, or in a file."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, ClassVar, final

from fitbus.callbacks._arguments import check_flag
from fitbus.callbacks._callback import Callback, Logs
from fitbus.callbacks._progress import AnyBatchEnd, Left, Progress, View
from fitbus.callbacks._progress_notebook import NotebookDisplay, Output, notebook
from fitbus.errors import FitbusError, InvalidArgumentError
from fitbus.events import BatchEnd, PredictBatchEnd, TestBatchEnd

if TYPE_CHECKING:
    from rich.console import Console

    from fitbus.callbacks._progress_display import Display
    from fitbus.train import Run

__all__ = ["ProgressBar"]

_RATE_S = 1.0  # asking takes training to a boundary


@final
class ProgressBar(Callback):
    """Shows epochs and batches, live metrics, speed and time left; `fit(verbose=1)` attaches one.

    `fit(verbose=2)` attaches one with `live=False`.

    In a terminal what goes on is shown live, redrawn twice a second, and each epoch leaves a line;
    elsewhere there are only the lines. In a notebook (a kernel of Jupyter, Colab or VS Code) each
    run has one output, renewed twice a second, with a curve of the loss and the last epochs; how it
    ended stays there. That needs neither rich nor ipywidgets. Validation inside `fit` is silent.
    `evaluate` and `predict` show their own progress, and leave one line. A number of batches that
    the data don't tell is learned from the first epoch.

    Training never waits for the screen: a thread of its own writes. Of the batches, four a second
    are looked at, on the event loop. The terminal is left clean whatever ends the run. What `print`
    writes meanwhile, or others through the same console, goes above the bar.

    Differs from Keras in: Keras' `ProgbarLogger` draws a bar at every batch, in the training thread
    and wherever its output goes, so that a log file fills up with it; what it shows is fixed. Here
    it takes arguments, and there is none of Keras'.

    Args:
        leave: Whether epochs, evaluations and predictions leave a line.
        live: Whether what goes on is shown where that is possible; False: lines only.
        console: Where to; unless given, the notebook, or rich's own console for standard output.

    Raises:
        InvalidArgumentError: An argument is of the wrong kind.
        FitbusError: rich is needed and isn't installed; it comes with the extra `demo`.
    """

    adds_logs: ClassVar[bool | frozenset[str]] = False

    def __init__(
        self, *, leave: bool = True, live: bool = True, console: Console | None = None
    ) -> None:
        check_flag("ProgressBar", "leave", leave)
        check_flag("ProgressBar", "live", live)
        self._shell = notebook() if live and console is None else None
        if self._shell is None and console is None:
            try:
                import rich
            except ImportError as error:
                raise FitbusError(
                    'ProgressBar needs rich, which isn\'t installed: pip install "fitbus[demo]"'
                ) from error
            console = rich.get_console()
        if console is not None and not callable(getattr(console, "print", None)):
            raise InvalidArgumentError(
                "ProgressBar.console", console, "give a console of rich, or None"
            )
        self._leave = leave
        self._live = live
        self._console = console
        self._output: Output | None = None
        self._display: Display | NotebookDisplay | None = None
        self._progress = Progress(None, 1)
        self._rate_asked = 0.0

    def attach(self, run: Run[Any]) -> None:
        """Subscribes to a run; `callbacks=[...]` calls it."""
        self._progress = Progress(None, 1)
        super().attach(run)
        if self._shell is not None:  # here, since this is called in the cell that it belongs to
            self._output = Output(self._shell, run.id)
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
        assert self.run is not None
        self.close()
        progress = Progress(self.params.get("steps"), self.params.get("epochs", 1), kind)
        self._progress = progress
        self.run.add(
            progress.look if self._shell is None or kind != "fit" else self._look,
            batches,
            where=progress.is_due,
            wait=False,
            overflow="latest",
            name="ProgressBar batches",
        )
        if self._shell is None:
            from fitbus.callbacks._progress_display import Display

            assert self._console is not None
            self._display = Display(self._console, self._view, live=self._live)
        else:  # a record of several runs shows each in an output of its own
            output, self._output = self._output or Output(self._shell, self.run.id), None
            self._display = NotebookDisplay(output, self.run.id, self._view, draws=kind == "fit")

    def _end(self, logs: Logs | None) -> None:
        self._progress.end_epoch()
        self._progress.over = True
        self._leave_line(f"{self._progress.kind}  {self._progress.count:,} batches", logs)
        self.close()

    def _leave_line(self, label: str, logs: Logs | None) -> None:
        if self._display is not None and self._leave:
            progress = self._progress
            took_s, fast = progress.took_s, progress.speed
            self._display.add(Left(label, took_s, fast, logs or {}, progress.step))

    async def _look(self, event: BatchEnd) -> None:
        """Looks at a batch, and once a second at the learning rate; on the event loop."""
        await self._progress.look(event)
        if event.time - self._rate_asked < _RATE_S or self.run is None:
            return
        self._rate_asked = event.time
        # Of a task without one, at the end of a run, or in a record there is none to be had.
        with contextlib.suppress(Exception):
            rates = await self.run.hyperparameters()
            self._progress.learning_rate = rates.get("learning_rate")

    def _view(self) -> View:
        """What goes on at present; in the display's thread."""
        assert self.run is not None
        over = "completed" if self._progress.over else None
        status: str = self.run.end_reason or over or self.run.status
        if status == "stopped":
            with contextlib.suppress(FitbusError):  # a record doesn't tell
                status += f" ({self.run.stop_reason})" if self.run.stop_reason else ""
        return self._progress.view(status)
