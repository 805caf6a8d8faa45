"""Saves whole states under numbers, with Orbax' `CheckpointManager`."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, final

import jax

from fitbus.callbacks._background import Background
from fitbus.callbacks._callback import Callback, Logs
from fitbus.callbacks._monitor import Monitor
from fitbus.callbacks._saving import SaveFreq, Saving, path_of, saved_of, scalar
from fitbus.checkpoints import NumberedStates, check_installed, named_arrays
from fitbus.errors import InvalidArgumentError
from fitbus.events import CheckpointSaved

if TYPE_CHECKING:
    from fitbus.train import Run

__all__ = ["OrbaxCheckpoint"]


@final
class OrbaxCheckpoint(Callback):
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

    adds_logs: ClassVar[bool | frozenset[str]] = False

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
        self._monitor = Monitor("OrbaxCheckpoint", monitor, mode, 0)
        self._saving = Saving(
            "OrbaxCheckpoint",
            self._monitor,
            verbose=verbose,
            flags={
                "save_best_only": save_best_only,
                "save_on_background": save_on_background,
                "save_weights_only": save_weights_only,
            },
            save_freq=save_freq,
            threshold=initial_value_threshold,
        )
        self.directory = path_of("OrbaxCheckpoint", "directory", directory)
        if max_to_keep is not None:
            self._monitor.check_count("max_to_keep", max_to_keep)
            if max_to_keep == 0:
                raise InvalidArgumentError(
                    "OrbaxCheckpoint.max_to_keep", 0, "give at least 1, or None for all"
                )
        self._background = Background("OrbaxCheckpoint", timeout_s, room=1)
        self._states: NumberedStates | None = None
        check_installed("OrbaxCheckpoint", "orbax.checkpoint")
        self.monitor = monitor
        self.verbose = verbose
        self.save_best_only = save_best_only
        self.save_freq: SaveFreq = save_freq
        self.max_to_keep = max_to_keep
        self.save_on_background = save_on_background
        self.save_weights_only = save_weights_only
        if save_freq != "epoch":  # else no hook waits for every batch
            self.__dict__["on_train_batch_end"] = self._after_batch

    @property
    def best(self) -> float | None:
        """The best value; None before the first one."""
        return self._saving.best

    @best.setter
    def best(self, value: float | None) -> None:
        self._saving.best = value

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

    def attach(self, run: Run[Any]) -> None:
        """Subscribes to a run; `callbacks=[...]` calls it."""
        super().attach(run)
        run.at_end(self._leave)  # after an error of its own, no hook is called

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

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Notes which epoch it is."""
        self._saving.epoch = epoch

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Saves, where it saves by epochs."""
        if self.save_freq == "epoch":
            self._consider(epoch, logs or {})
        if epoch + 1 == self.params.get("epochs") or self.model.stop_training:
            self._background.flush()  # the last one is complete before `TrainEnd` is told

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Waits until all is written.

        Raises:
            FitbusError: Something couldn't be written.
            TimeoutError: It takes too long.
        """
        assert self.run is not None
        states, self._states = self._states, None
        limit = self.run.driver.grace_s / 2 if self.run.end_reason == "cancelled" else None
        try:
            if states is not None:
                self._background.submit(states.close)
        finally:
            self._background.close(limit)

    def state_dict(self) -> dict[str, Any]:
        """What it remembers."""
        return {"best": self._saving.best, "batches": self._saving.batches}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes it back."""
        self._saving.best = state["best"]
        self._saving.batches = state["batches"]

    def _leave(self) -> None:
        self._states = None
        with contextlib.suppress(Exception):
            self._background.close(0.0)

    def _after_batch(self, batch: int, logs: Logs | None = None) -> None:
        """The hook of every batch, where it saves by batches."""
        if self._saving.is_due_at_batch():
            self._consider(int(self.model.state.step), logs or {})

    def _consider(self, number: int, logs: Logs) -> None:
        """Decides whether to save; the writing is left to the background."""
        epoch = self._saving.epoch
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
            if not self._saving.improves(value):
                self._say(epoch, f"{self.monitor} did not improve from {self.best}")
                return
        weights_only = self.save_weights_only
        named = named_arrays(saved_of(self.run, self.model.state, weights_only=weights_only))
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

    def _say(self, epoch: int, text: str) -> None:
        if self.verbose:
            print(f"Epoch {epoch + 1}: {text}")  # noqa: T201  # asked for
