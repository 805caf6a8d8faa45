"""Saves weights or whole states while training goes on."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, final

from fitbus.callbacks._arguments import scalar
from fitbus.callbacks._callback import Logs
from fitbus.callbacks._checkpoint_path import CheckpointPath
from fitbus.callbacks._kept import Kept
from fitbus.callbacks._saving import SaveFreq, Saver
from fitbus.checkpoints import (
    check_installed,
    delete_checkpoint,
    named_arrays,
    write_state,
    write_weights,
)
from fitbus.events import CheckpointSaved

if TYPE_CHECKING:
    from fitbus.train import Run

__all__ = ["ModelCheckpoint"]


@final
class ModelCheckpoint(Saver):
    """Saves the parameters, or the whole state, every epoch or every so many batches.

    Whether and under which name is decided at once, with a copy in memory; files are written in
    order by a thread of their own, whole or not at all: what was there stays until the new one is
    complete, which `CheckpointSaved` then tells. Training waits only where two copies wait for the
    disk already. All is written when `fit` returns; a cancelled `fit` waits for half of its grace
    period at the most.

    Parameters are written as safetensors, whole states as directories of Orbax':

        params = fitbus.checkpoints.load_weights("best.safetensors", trainer.state.params)
        trainer = fitbus.Trainer(task, fitbus.checkpoints.load_state("last", trainer.state))

    Differs from Keras in these things: NaN is never the best value, so that a first one doesn't
    keep every later value from being saved; `save_best_only` works with a number as `save_freq`;
    the formats are those above, so `.h5` and `.keras` are refused; a `monitor` that
    `save_best_only` needs, or a field of `filepath`, that the logs will never have is refused
    before the first step; a name that doesn't tell its direction is refused unless `mode` does; and
    `keep` can limit how many there are.

    Args:
        filepath: The path, with fields as of `str.format`: `epoch` (from 1), `batch` (from 1, where
            it saves by batches) and every name in the logs: `"{epoch:02d}-{val_loss:.2f}"`.
            For `save_weights_only` it ends in `.safetensors`. Missing folders are made.
        monitor: A name in the logs; of use for `save_best_only` and `keep`.
        verbose: 1 prints what it does.
        save_best_only: Saves only when `monitor` is better than ever before. Logs that don't have
            it, or where it isn't one number, give a warning, and it saves.
        save_weights_only: Saves the parameters alone (`state.params`; or the `weights(state)` of a
            task that has those), not the whole state.
        mode: `"min"`, `"max"`, or `"auto"`: what the words of the name say.
        save_freq: `"epoch"`, or a number of batches, which are counted over epochs and trainings.
        initial_value_threshold: The value that `monitor` must beat first.
        keep: So many of those that this object saved are kept: the best ones by `monitor`, and
            where the logs don't have it the newest ones. The others are deleted once a new one is
            complete; one that isn't among them isn't written.
        timeout_s: Seconds to wait for a slow disk, when too much waits and at the end.

    Attributes:
        best: The best value; it stays for the next training.

    Raises:
        InvalidArgumentError: An argument is out of range; or, before the first step, a name is one
            that the logs will never have.
        FitbusError: The extra `checkpoint` isn't installed. In `fit`: a file can't be written; the
            message names it.
        TimeoutError: In `fit`: the disk is too slow for `timeout_s`.

    Source: Keras' `ModelCheckpoint`.
    """

    def __init__(
        self,
        filepath: str | Path,
        monitor: str = "val_loss",
        verbose: int = 0,
        save_best_only: bool = False,
        save_weights_only: bool = False,
        mode: Literal["auto", "min", "max"] = "auto",
        save_freq: SaveFreq = "epoch",
        initial_value_threshold: float | None = None,
        *,
        keep: int | None = None,
        timeout_s: float = 30.0,
    ) -> None:
        super().__init__(
            monitor,
            mode=mode,
            verbose=verbose,
            save_best_only=save_best_only,
            save_weights_only=save_weights_only,
            save_freq=save_freq,
            threshold=initial_value_threshold,
            timeout_s=timeout_s,
        )
        self._path = CheckpointPath(filepath, weights=save_weights_only)
        self._kept = None if keep is None else Kept(keep, self._monitor, self._path.fields)
        library: Any = "safetensors" if save_weights_only else "orbax.checkpoint"
        check_installed("ModelCheckpoint", library)
        self.filepath = self._path.text

    def check_log_names(self, names: frozenset[str]) -> None:
        """Refuses a monitor, and fields of the path, that can never appear."""
        if self.save_best_only:
            self._monitor.check_names(names)
        self._path.check_names(names, by_batch=self.save_freq != "epoch")

    def _check_names(self, names: frozenset[str]) -> None:
        super()._check_names(names)  # first: of a misspelt name the direction says nothing
        assert self.run is not None
        appears = self.run.open_logs or self.monitor in names | self.run.preparation.added_logs
        if self.save_best_only or (self._kept is not None and appears):
            self._monitor.check_direction()

    def state_dict(self) -> dict[str, Any]:
        """What it remembers."""
        kept = [] if self._kept is None else self._kept.entries
        return {**super().state_dict(), "kept": [[path, value] for path, value in kept]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes it back."""
        super().load_state_dict(state)
        if self._kept is not None:
            self._kept.entries = [(path, value) for path, value in state["kept"]]

    def _consider(self, epoch: int, batch: int | None, logs: Logs) -> None:
        path = self._path.filled(epoch, batch, logs)
        value = scalar(logs.get(self.monitor))
        if not self._should_save(epoch, logs, value, path):
            return
        dropped: list[str] = []
        if self._kept is not None:
            among = self._kept.take(path, value)
            if among is None:
                self._say(epoch, f"not among the best {self._kept.number}, which are kept")
                return
            dropped = among
        named = named_arrays(self._saved())
        write_to = write_weights if self.save_weights_only else write_state
        write = functools.partial(write_to, path, named)
        self._background.submit(
            functools.partial(self._write, self.run, write, epoch, path, dropped)
        )

    def _should_save(self, epoch: int, logs: Logs, value: float | None, path: str) -> bool:
        if not self.save_best_only:
            self._say(epoch, f"saving to {path}")
            return True
        if value is None:
            found = logs.get(self.monitor)
            why = f"they have {sorted(logs)}" if found is None else f"it is {found!r}"
            warnings.warn(
                f"ModelCheckpoint: there is no number {self.monitor!r} in the logs of epoch"
                f" {epoch}, by which it could save only the best; it saves: {why}",
                RuntimeWarning,
                stacklevel=4,
            )
            return True
        best = "None" if self.best is None else f"{self.best:.5f}"
        if self._improves(value):
            self._say(
                epoch, f"{self.monitor} improved from {best} to {value:.5f}, saving to {path}"
            )
            return True
        self._say(epoch, f"{self.monitor} did not improve from {best}")
        return False

    def _write(
        self,
        run: Run[Any] | None,
        write: Callable[[], None],
        epoch: int,
        path: str,
        dropped: list[str],
    ) -> None:
        """Writes one, tells of it, and deletes those that it replaces; in the background."""
        assert run is not None
        write()
        run.publish(CheckpointSaved(path=path))
        self._say(epoch, f"saved to {path}")
        for old in dropped:
            delete_checkpoint(old)
