"""What training does, for TensorBoard."""

from __future__ import annotations

import logging
import os
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, final

from fitbus.callbacks._callback import Callback, Logs
from fitbus.callbacks._tensorboard_checks import (
    check_arguments,
    check_metadata,
    numbers,
    window_of,
)
from fitbus.callbacks._tensorboard_files import check_installed
from fitbus.callbacks._tensorboard_graph import write_program
from fitbus.callbacks._tensorboard_profiler import ProfilerWindow
from fitbus.callbacks._tensorboard_projector import Projector
from fitbus.callbacks._tensorboard_weights import copies_of, parameters_of, summaries_of
from fitbus.callbacks._tensorboard_writer import Batches, Writer
from fitbus.callbacks._tensorboard_written import Written

if TYPE_CHECKING:
    from fitbus.bus import Subscription
    from fitbus.train import Run

__all__ = ["TensorBoard"]

_logger = logging.getLogger("fitbus")


@final
class TensorBoard(Written, Callback):
    """Writes what training does to TensorBoard's files, without TensorFlow.

    In `log_dir`, below `train` and `validation`, each of which comes into being with its first
    record:

    - `epoch_<name>` over epochs: the logs, the learning rate, and `steps_per_second` if asked for;
    - `batch_<name>` over optimizer updates, unless `update_freq` is `"epoch"`: running means;
    - `evaluation_<name>_vs_iterations` over optimizer updates, after each validation and
      `evaluate`;
    - of each parameter `<path>/histogram` and `<path>/image`, with slashes in paths of a pytree;
    - the traced train step, as a graph and as a text;
    - tables of embeddings, for the projector, and what JAX' profiler saw.

    `scalar`, `text`, `image` and `histogram` write what you like beside it, from any thread.

        board = TensorBoard(histogram_freq=1)
        board.text("arguments", "a dense network, *dropout 0.2*", step=0)
        await trainer.fit(x, y, epochs=5, callbacks=[board])

    Training never waits for a file, nor for a batch, except in a window of the profiler: batches
    are read concurrently, and a thread of the callback's own writes the rest. Parameters are copied
    to the host at the end of an epoch, once those of the one before are written. All is in the
    files when `fit` returns. An error of the file system ends training.

    A training that goes on from a backup, with a callback of the same `log_dir`, takes out what was
    written after the backup, since it comes again: the curves end as those of a training that was
    never interrupted. A backup counts only when the files have what came before it.

    Differs from Keras in these points. Batches are counted over all fits of a trainer, as
    evaluations are, so that a resumed training goes on where its curves end; Keras starts anew.
    `batch_steps_per_second` is the mean since the value before it, since batches overlap here.
    `write_graph` draws the operations of the train step, which Keras can't on JAX. Histograms leave
    out what isn't finite, and say so in the log. Images of parameters run from their least value to
    their greatest; Keras shows all below 0 as black. Embeddings are matrices with "embed" in
    their path, or named in `embeddings_metadata`, in tables that the projector can read without
    TensorFlow; Keras writes a file that it can't. A directory is made when there is something to
    write; Keras makes `train` in an evaluation too.

    Args:
        log_dir: A local directory; a run of TensorBoard's. Give each training one of its own.
        histogram_freq: Histograms of the parameters every so many epochs; 0 for none.
        write_graph: Whether the train step is written.
        write_images: Whether images of the parameters are written along with their histograms.
        write_steps_per_second: Whether the speed is written, by epoch, and by batch if batches are.
        update_freq: `"epoch"`; `"batch"`; or a number n for each n-th batch.
        profile_batch: A batch of a fit, counted from 1, or the first and the last one, as a pair
            or as `"first,last"`; 0 for none.
        embeddings_freq: Embeddings every so many epochs; 0 for none.
        embeddings_metadata: A file of labels, relative to `log_dir`: for all embeddings, or by the
            path of a parameter or a part of it.
        timeout_s: Seconds that the end of training waits for the files.

    Raises:
        FitbusError: The package tensorboard isn't installed.
        InvalidArgumentError: An argument is of the wrong kind; in `fit`, before the first step:
            `embeddings_metadata` names what is no matrix.
        OSError: In `fit`: the files can't be written. If it can be foreseen, before the first step.

    Source: Keras' `TensorBoard`; TensorBoard's own package, whose record writer and descriptions of
    data this uses.
    """

    adds_logs: ClassVar[bool | frozenset[str]] = False

    def __init__(
        self,
        log_dir: str | os.PathLike[str] = "logs",
        histogram_freq: int = 0,
        write_graph: bool = True,
        write_images: bool = False,
        write_steps_per_second: bool = False,
        update_freq: Literal["batch", "epoch"] | int = "epoch",
        profile_batch: int | str | Sequence[int] = 0,
        embeddings_freq: int = 0,
        embeddings_metadata: str | Mapping[str, str] | None = None,
        *,
        timeout_s: float = 30.0,
    ) -> None:
        check_arguments(
            log_dir,
            update_freq,
            freqs={"histogram_freq": histogram_freq, "embeddings_freq": embeddings_freq},
            flags={
                "write_graph": write_graph,
                "write_images": write_images,
                "write_steps_per_second": write_steps_per_second,
            },
        )
        check_metadata(embeddings_metadata)
        self._window = window_of(profile_batch)
        self._writer = Writer(Path(log_dir), timeout_s)
        check_installed()
        if write_images and not histogram_freq:
            _logger.warning("TensorBoard: write_images has no effect without histogram_freq")
        self.log_dir = str(Path(log_dir))
        self.histogram_freq = histogram_freq
        self.write_graph = write_graph
        self.write_images = write_images
        self.write_steps_per_second = write_steps_per_second
        self.update_freq: Literal["epoch"] | int = 1 if update_freq == "batch" else update_freq
        self.embeddings_freq = embeddings_freq
        self.embeddings_metadata = embeddings_metadata
        self._projector = Projector(Path(log_dir), embeddings_metadata)
        self._fitting = False
        self._profiler: ProfilerWindow | None = None
        self._batches: Subscription[Any] | None = None
        self._drawn: weakref.ref[Any] | None = None  # the steps that were written
        self._was_drawn = False  # by a process before
        self._began = (0, 0.0)  # updates and time at the beginning of the epoch

    # What training does.

    def attach(self, run: Run[Any]) -> None:
        """Subscribes to a run; `callbacks=[...]` calls it."""
        super().attach(run)
        self._writer.attach(run)
        self._fitting, self._batches = False, None
        run.at_end(self._end)  # an evaluation that fails has no event of its end

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Begins to listen to batches, where asked to."""
        assert self.run is not None
        self._writer.open()
        self._fitting = True
        if self.embeddings_freq and not self._projector.chosen(self._parameters()):
            _logger.warning('TensorBoard: no matrix has "embed" in its path; there is no embedding')
        if self.update_freq != "epoch":
            batches = Batches(self._writer, self.update_freq, speed=self.write_steps_per_second)
            self._batches = batches.watch(self.run)
        if self._window[0]:
            self._profiler = ProfilerWindow(Path(self.log_dir) / "train", *self._window)
            self._profiler.watch(self.run)

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Draws the train step, once it is traced; begins to measure."""
        self._began = (self.model.optimizer.iterations, time.time())
        if self.write_graph:
            self._draw()

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Writes the logs, and the parameters where they are due."""
        found = numbers(logs or {})
        validated = {k[4:]: v for k, v in found.items() if k.startswith("val_")}
        trained = {k: v for k, v in found.items() if not k.startswith("val_")}
        if found:
            rate = getattr(self.model.optimizer, "learning_rate", None)
            if rate is not None:
                trained["learning_rate"] = rate
            steps, since = self._began
            if self.write_steps_per_second and (took := time.time() - since) > 0:
                trained["steps_per_second"] = (self.model.optimizer.iterations - steps) / took
        self._writer.put_scalars("train", "epoch_{}", trained, epoch)
        self._writer.put_scalars("validation", "epoch_{}", validated, epoch)
        self._write_parameters(epoch)

    def on_test_begin(self, logs: Logs | None = None) -> None:
        """Begins with an evaluation of its own; inside `fit` it does nothing."""
        if not self._fitting:
            self._writer.open()

    def on_test_end(self, logs: Logs | None = None) -> None:
        """Writes what an evaluation found."""
        found = numbers(logs or {})
        step = self.model.optimizer.iterations
        self._writer.put_scalars("validation", "evaluation_{}_vs_iterations", found, step)
        if not self._fitting:
            self._writer.close()

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Stops the profiler, and waits until all is written."""
        self._close_profiler()
        self._writer.close()

    # What a backup needs.

    def state_dict(self) -> dict[str, Any]:
        """How much it has written."""
        return {**self._writer.written(), "drawn": self._was_drawn or self._drawn is not None}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes out what was written after that."""
        engine = None if self.run is None else self.run.driver.engine
        if engine is not None and engine.preparation.went_back is not None:
            return  # this process wrote it, and tells what comes again once more
        self._writer.go_on(state, None if engine is None else engine.updates)
        self._was_drawn = state["drawn"]

    def pending_writes(self) -> Callable[[float], bool]:
        """What isn't in the files yet."""
        batches = None if self._batches is None else self._batches.mark()
        rest = self._writer.mark()

        def wait(timeout_s: float) -> bool:
            return (batches is None or batches(timeout_s)) and rest(timeout_s)

        return wait

    # Inside.

    def _end(self) -> None:
        """Writes what came after the last event; in the event loop, with hardly anything to do."""
        self._close_profiler()
        self._writer.close(for_good=True)

    def _close_profiler(self) -> None:
        profiler, self._profiler = self._profiler, None
        if profiler is not None:
            profiler.close()

    def _parameters(self) -> dict[str, Any]:
        assert self.run is not None
        steps = self.run.trainer.steps
        return parameters_of(steps.task, steps.weights(self.model.state))

    def _write_parameters(self, epoch: int) -> None:
        shown = self.histogram_freq and epoch % self.histogram_freq == 0
        embedded = self.embeddings_freq and epoch % self.embeddings_freq == 0
        if not (shown or embedded):
            return
        self._writer.flush()  # one copy of the parameters at a time
        leaves = self._parameters()
        chosen = self._projector.chosen(leaves) if embedded else []
        copies = copies_of(leaves if shown else {path: leaves[path] for path in chosen})
        if shown:
            images = self.write_images
            self._writer.put("train", lambda: summaries_of(copies, images=images), epoch)
        if chosen:
            tables = {path: copies[path] for path in chosen}
            self._writer.submit(lambda: self._projector.write(tables, epoch))

    def _draw(self) -> None:
        """Draws the train step; once for each trainer."""
        assert self.run is not None
        steps = self.run.trainer.steps
        if self._drawn is not None and self._drawn() is steps:
            return
        if self._was_drawn or write_program(self._writer, steps, self.model.state):
            self._drawn, self._was_drawn = weakref.ref(steps), False
