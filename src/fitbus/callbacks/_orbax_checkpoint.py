"""Saves whole states under numbers, with Orbax' `CheckpointManager`."""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, final

import jax

from fitbus.callbacks._arguments import check_flag, check_whole, path_of, scalar
from fitbus.callbacks._callback import Logs
from fitbus.callbacks._saving import SaveFreq, Saver
from fitbus.checkpoints import NumberedStates, check_installed, named_arrays
from fitbus.errors import InvalidArgumentError
from fitbus.events import CheckpointSaved

if TYPE_CHECKING:
    from fitbus.train import Run

__all__ = ["OrbaxCheckpoint"]


@final
class OrbaxCheckpoint(Saver):
    """Saves the state with Orbax, every epoch or every so many batches, in a numbered directory.

    The number is the epoch's, from 0, or, where it saves by batches, that of the completed steps
    (`state.step`). States are copied in memory at once, and written in order by another thread;
    each is there whole or not at all, and `CheckpointSaved` tells of it when it is complete. All is
    written when `fit` returns; a cancelled `fit` waits for half of its grace period at the most.

    They are read back with

        with fitbus.checkpoints.NumberedStates(directory) as states:
            trainer = fitbus.Trainer(task, states.load(trainer.state))

    and with `states.load(trainer.state.params)` where only those were saved.

    Differs from Keras in these things: errors at the end, which Keras swallows, are raised; NaN is
    never the best value; a training that begins anew in a directory replaces what has the same
    number there, where Keras fails; `max_to_keep` counts those that were written last, not those of
    the highest numbers; what is written is the state and nothing of a model's own; a monitor that
    the logs will never have is refused before the first step, as is a name that doesn't tell its
    direction; and only one process is served: arrays that it has sharded over several devices are
    put together.

    Args:
        directory: Where to; made if it isn't there.
        monitor: A name in the logs; of use for `save_best_only`.
        verbose: 1 prints what it does.
        save_best_only: Saves only when `monitor` is better than ever before; logs that don't have
            it, or where it isn't one number, give a warning, and it doesn't save.
        mode: `"min"`, `"max"`, or `"auto"`: what the words of the name say.
        save_freq: `"epoch"`, or a number of batches, which are counted over epochs and trainings.
        initial_value_threshold: The value that `monitor` must beat first.
        max_to_keep: So many are kept; None keeps all.
        save_on_background: False: training waits until each one is written.
        save_weights_only: Saves the parameters alone (`state.params`; or the `weights(state)` of a
            task that has those), not the whole state.
        timeout_s: Seconds to wait for a slow disk, when too much waits and at the end.

    Attributes:
        best: The best value; it stays for the next training.

    Raises:
        InvalidArgumentError: An argument is out of range; in `fit`, before the first step:
            `directory` is a file, or the logs will never have `monitor`.
        FitbusError: The extra `checkpoint` isn't installed. In `fit`: something can't be written;
            the message names it.
        TimeoutError: In `fit`: the disk is too slow for `timeout_s`.

    Source: Keras' `OrbaxCheckpoint`; https://orbax.readthedocs.io
    """

    def __init__(
        self,
        directory: str | Path,
        monitor: str = "val_loss",
        verbose: int = 0,
        save_best_only: bool = False,
        mode: Literal["auto", "min", "max"] = "auto",
        save_freq: SaveFreq = "epoch",
        initial_value_threshold: float | None = None,
        max_to_keep: int | None = 1,
        save_on_background: bool = True,
        save_weights_only: bool = False,
        *,
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
        check_flag("OrbaxCheckpoint", "save_on_background", save_on_background)
        self.directory = path_of("OrbaxCheckpoint", "directory", directory)
        if max_to_keep is not None:
            check_whole("OrbaxCheckpoint", "max_to_keep", max_to_keep, 0)
            if max_to_keep == 0:
                raise InvalidArgumentError(
                    "OrbaxCheckpoint.max_to_keep", 0, "give at least 1, or None for all"
                )
        self._states: NumberedStates | None = None
        check_installed("OrbaxCheckpoint", "orbax.checkpoint")
        self.max_to_keep = max_to_keep
        self.save_on_background = save_on_background

    def wait_until_finished(self) -> None:
        """Waits until all is written that was to be saved so far.

        Raises:
            FitbusError: Something couldn't be written.
            TimeoutError: It takes longer than `timeout_s`.
        """
        self._background.flush()

    def is_primary_host(self) -> bool:
        """Whether this is the first of several processes; True where there is only one."""
        return jax.process_index() == 0

    def check_log_names(self, names: frozenset[str]) -> None:
        """Refuses a monitor that can never appear; at batches, there is no validation."""
        if self.save_best_only:
            if self.save_freq != "epoch":
                names = frozenset(name for name in names if not name.startswith("val_"))
            self._monitor.check_names(names)

    def _check_names(self, names: frozenset[str]) -> None:
        super()._check_names(names)  # first: of a misspelt name the direction says nothing
        if self.save_best_only:
            self._monitor.check_direction()

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Opens the directory: what is wrong with it is told before the first step."""
        if jax.process_count() > 1:
            raise InvalidArgumentError(
                "callbacks", self, "OrbaxCheckpoint serves trainings in one process only"
            )
        self._background.submit(self._open)
        self._background.flush()

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Waits until all is written; raises as `wait_until_finished` does."""
        states, self._states = self._states, None
        try:
            if states is not None:
                self._background.submit(states.close)
        finally:
            super().on_train_end(logs)

    def _consider(self, epoch: int, batch: int | None, logs: Logs) -> None:
        if self.save_best_only:
            value = scalar(logs.get(self.monitor))
            if value is None:
                warnings.warn(
                    f"OrbaxCheckpoint: there is no number {self.monitor!r} in the logs of epoch"
                    f" {epoch}, by which it could save only the best; it doesn't save: they have"
                    f" {sorted(logs)}",
                    RuntimeWarning,
                    stacklevel=3,
                )
                return
            if not self._improves(value):
                self._say(epoch, f"{self.monitor} did not improve from {self.best}")
                return
        number = epoch if batch is None else int(self.model.state.step)
        named = named_arrays(self._saved())
        self._background.submit(partial(self._write, self._states, self.run, epoch, number, named))
        if not self.save_on_background:
            self._background.flush()

    def _open(self) -> None:
        states = self._states = NumberedStates(self.directory, self.max_to_keep)
        states.open()

    def _write(
        self,
        states: NumberedStates | None,
        run: Run[Any] | None,
        epoch: int,
        number: int,
        named: Any,
    ) -> None:
        assert states is not None
        assert run is not None
        path = states.write(number, named)
        run.publish(CheckpointSaved(path=str(path)))
        self._say(epoch, f"saved to {path}")
