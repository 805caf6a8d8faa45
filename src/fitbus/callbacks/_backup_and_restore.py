"""Backs up a training, so that it goes on where it was interrupted."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, final

from fitbus.callbacks._arguments import check_flag, is_whole, path_of
from fitbus.callbacks._background import Background
from fitbus.callbacks._backup_and_restore_content import newest_whole, restored
from fitbus.callbacks._backup_file import BackupFiles, Damaged
from fitbus.callbacks._callback import Callback, Logs
from fitbus.errors import FitbusError, InvalidArgumentError
from fitbus.events import CheckpointSaved
from fitbus.train import Restored, packed, unpacked

if TYPE_CHECKING:
    from fitbus.train import Engine, Run

__all__ = ["BackupAndRestore"]

_TICK_S = 0.1


@final
class BackupAndRestore(Callback):
    """Backs up a training, so that the same `fit`, called again, goes on where it was interrupted.

    A backup holds the whole state (parameters, optimizer, random key, step), the place in the epoch
    and in the data (order of shuffled arrays included), the running means, the history, what the
    callbacks remember (`state_dict`), and controls that wait (no stop, no pause). It is taken at a
    step boundary, when all waiting handlers have seen what came before, wherever in
    `callbacks=[...]` it stands. A training that goes on ends with the same parameters, bit for bit,
    as one that was never interrupted: with the same program, data and devices, and kernels that are
    deterministic. Give `fit` the same arguments again; `epochs` may be larger. If it goes on within
    an epoch, or within a pass where there is `steps_per_epoch`, a `RuntimeWarning` names what is
    plainly different: the number of examples or batches, `batch_size`, `shuffle`,
    `steps_per_epoch`.

    Data are put back to their place. Arrays, lists and what else is picked by an index are by their
    numbers. Iterables and iterators, `async` ones and those of validation data too, are by their
    state, if they have `state_dict()` and `load_state_dict(state)`, as torchdata's loader, or
    `get_state()` and `set_state(state)`, as what `iter()` makes of Grain's datasets; those that
    have none are read up to the place, as those of a function are (`fit(batches)`): these must give
    the same batches each time. What comes once and has no state, such as a generator, is refused
    before the first step: nobody could tell how far it had come when it is given again. To write
    data of your own that have a state: count a batch *before* you `yield` it, and let the next
    `iter()` after `load_state_dict` go on with the one that comes then, as when the state was
    taken; what changes from pass to pass (a generator that shuffles) is a part of it. A state is
    None, numbers, texts, bytes, lists, tuples, dicts and arrays. It is asked for at the beginning
    of a pass, and once a backup; not in a run without one.

    A training doesn't go on with data of another kind than those of the backup.

    While a stop is in force (of the training, or of the epoch) no backup is taken, so that a
    training that goes on decides about it again: it goes back to the last backup before, and
    whoever asked for the stop has to ask again. A stop is an end, after which the backup is
    deleted. To interrupt a training that is to go on later, send `StopTraining(resumable=True)`, as
    `fitbus.stop_on_signals` and `Runs` do: a last backup is taken where it stops, and kept. A
    cancelled one goes on from the backup before.

    Only the copy to the host is waited for; a file is written in a thread, and given its name when
    it is whole. Where the disk is slower than the backups come, the newest one that waits is
    written, the others are left out. All is written when `fit` returns (after a cancellation, what
    half of `grace_s` is enough for). The files are read by nobody else: a number of bytes,
    MessagePack, raw arrays and a SHA-256 checksum. `fit` fails, and names the path, if one can't be
    written. One counts when the files of the other callbacks (those that have a `pending_writes`)
    have all that came before it, and isn't written if they never will. Two trainings at once need a
    directory each.

    In a run that has one, `SaveCheckpoint(tag)` saves the same under a name, `checkpoint-TAG` in
    the directory, which nobody deletes, and tells of it by `CheckpointSaved` when it is there; and
    `RestoreCheckpoint(which)` goes back to that of a tag, or to the `"last"` backup or checkpoint:
    state, place in the data, history and callbacks are those of then, and `seq` goes on.

    Callbacks are told apart by their types, and those of one type by their order. What a callback
    remembers is taken back after all `on_train_begin` hooks. `self.run.preparation.resumed`
    tells an `on_train_begin` hook of a training that goes on. Within an epoch, `on_epoch_begin` of
    that epoch is called again, in Keras' objects too; what fitbus' schedulers and Keras'
    `LearningRateScheduler` set there isn't set a second time, and a hook of yours that shouldn't
    act twice can ask `self.run.preparation.began_before(epoch)`.

    Differs from Keras in what it keeps: there, only the weights and the number of the epoch are. So
    a backup within an epoch goes on with the next batch, not with the first one of that epoch; the
    callbacks don't begin anew; and a later `fit(epochs=...)` counts from its own `initial_epoch`.
    The backup is deleted only if training was completed or stopped on purpose, and all that had to
    be done at its end was; never other files of the directory. `save_freq=True`, or `False`, is
    refused.

    Args:
        backup_dir: The directory, made if it isn't there.
        save_freq: `"epoch"`, or every how many batches, counted over epochs.
        double_checkpoint: Whether one more backup is kept than the newest and the one before, to
            which it falls back, with a warning, where the newest is damaged.
        delete_checkpoint: Whether the backups are deleted at the end, as said above.
        timeout_s: Seconds that the end of training waits for what is still to be written.

    Raises:
        InvalidArgumentError: An argument is out of range; in `fit`: the backup is of another state,
            or two have one directory.
        DataError: In `fit`: the data come once and have no state; a state can't be kept; or the
            data are of another kind than those of the backup.
        FitbusError: In `fit`: none of the backups can be read.
        OSError: In `fit`: the directory can't be written to; before the first step, if it is so.

    Source: Keras' `BackupAndRestore`.
    """

    adds_logs: ClassVar[bool | frozenset[str]] = False

    def __init__(
        self,
        backup_dir: str | os.PathLike[str],
        save_freq: int | Literal["epoch"] = "epoch",
        double_checkpoint: bool = False,
        delete_checkpoint: bool = True,
        *,
        timeout_s: float = 30.0,
    ) -> None:
        path = path_of("BackupAndRestore", "backup_dir", backup_dir)
        if save_freq != "epoch" and not (is_whole(save_freq) and save_freq > 0):
            raise InvalidArgumentError(
                "BackupAndRestore.save_freq",
                save_freq,
                "give 'epoch', or a whole number of batches of at least 1",
            )
        check_flag("BackupAndRestore", "double_checkpoint", double_checkpoint)
        check_flag("BackupAndRestore", "delete_checkpoint", delete_checkpoint)
        self.backup_dir = backup_dir
        self.save_freq: int | Literal["epoch"] = save_freq
        self.double_checkpoint = double_checkpoint
        self.delete_checkpoint = delete_checkpoint
        self._directory = Path(path).absolute()
        self._background = Background("BackupAndRestore", timeout_s)
        self._files = BackupFiles(self._directory, 3 if double_checkpoint else 2)
        self._lock = threading.Lock()
        self._waiting: tuple[list[Any], list[Callable[[float], bool]]] | None = None
        self._to_delete = False
        self._is_last = False  # the backup of a training that is interrupted was taken
        self._epoch: int | None = None  # that had begun at the last backup
        self._step = 0  # of the last backup
        self._last: Path | None = None  # that was written in this run
        self._went_back = False  # to an earlier one: the newest isn't where training is

    def attach(self, run: Run[Any]) -> None:
        """Subscribes to a run's end, and asks to be called at its boundaries.

        Raises:
            InvalidArgumentError: Another one of the run has its directory.
        """
        for _, other in run.preparation.callbacks:
            if isinstance(other, BackupAndRestore) and other is not self and self._shares(other):
                raise InvalidArgumentError(
                    "BackupAndRestore.backup_dir",
                    str(self._directory),
                    "another BackupAndRestore of this fit has it; leave one of them out, or give"
                    " each a directory of its own",
                )
        super().attach(run)
        self._background.attach(run)
        run.preparation.store = run.preparation.store or self
        self._to_delete, self._waiting, self._epoch = False, None, None
        self._is_last, self._last, self._went_back = False, None, False
        run.preparation.boundaries.append(self._at_boundary)
        run.preparation.endings.append(self._at_good_end)

    def restore(self) -> Restored | None:
        """Looks for a backup, and reads the newest whole one."""
        self._files.prepare()
        engine = self._engine()
        self._step = engine.updates
        there = newest_whole(self._files, self._directory)
        if there is None:
            return None
        path, content = there
        found = self._restored(path, content)
        epochs = self.params.get("epochs", found.position.epoch)
        if found.position.epoch > epochs:
            warnings.warn(
                f"BackupAndRestore: {path} was taken after {found.position.epoch} epochs, and"
                f" this fit ends with epoch {epochs}: nothing is trained; is it another"
                " training's?",
                RuntimeWarning,
                stacklevel=2,
            )
        return found

    def save(self, engine: Engine, tag: str) -> str:
        """Saves a checkpoint that was asked for; returns the path where it will be.

        Raises:
            InvalidArgumentError: The tag can't be a part of a file's name.
        """
        if tag != Path(tag).name and tag:
            raise InvalidArgumentError("SaveCheckpoint.tag", tag, "give a name without separators")
        path = self._files.named(tag or f"step-{engine.updates}")
        parts, others = packed(engine), engine.preparation.pending_writes()

        def write() -> None:
            self._wait_for(others)
            self._files.write_as(path, parts)
            self._last = path
            if self.run is not None:
                self.run.publish(CheckpointSaved(path=str(path), tag=tag))

        self._background.submit(write)
        return str(path)

    def load(self, which: str) -> Restored:
        """Reads a checkpoint: the last one of this run, or of those before it; or that of a tag.

        Raises:
            FitbusError: It isn't there, or can't be read.
        """
        self._background.flush()
        there = [self._last] if self._last is not None else self._files.newest_first()
        path = self._files.named(which) if which != "last" else next(iter(there), None)
        if path is None or not path.is_file():
            raise FitbusError(f"there is no checkpoint {which!r} in {self._directory}")
        try:
            content = self._files.read(path)
        except Damaged as error:
            raise FitbusError(f"{path} can't be read: {error}; restore another one") from error
        found = self._restored(path, unpacked(content))
        self._went_back = True
        return found

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Waits until all is written."""
        self._background.close()
        ended_well = self.run is not None and self.run.end_reason in ("completed", "stopped")
        self._to_delete = self.delete_checkpoint and ended_well and not self._engine().interrupted

    def _at_good_end(self) -> None:
        if self._to_delete:
            self._files.clear()

    def _at_boundary(self, engine: Engine) -> None:
        """Takes a backup if one is due."""
        if self.save_freq == "epoch":
            before, self._epoch = self._epoch, engine.epoch
            due = before is not None and before != engine.epoch
        else:  # a step may also lie before the last backup's, if a checkpoint was restored
            due = not 0 <= engine.updates - self._step < self.save_freq
        due, self._went_back = due or self._went_back, False
        if due or (engine.interrupted and not self._is_last):
            engine.preparation.acts()  # or what goes on from here would take it for skipped
        if engine.interrupted and not self._is_last:
            due = self._is_last = True  # it goes on from just here
        # A stop is no part of a backup: what goes on from one before it asks for it again.
        elif engine.stopping or (engine.in_epoch and engine.stop_epoch):
            return
        if not due:
            return
        self._step = engine.updates
        taken = packed(engine), engine.preparation.pending_writes()
        with self._lock:
            waits, self._waiting = self._waiting is not None, taken
        if not waits:
            self._background.submit(self._write)

    def _write(self) -> None:
        with self._lock:
            taken, self._waiting = self._waiting, None
        if taken is None:
            return  # it was left out, since the one before failed
        try:
            self._wait_for(taken[1])
            self._last = self._files.write(taken[0])
        except BaseException:
            with self._lock:
                self._waiting = None  # it would never be written; the next one says why
            raise

    def _restored(self, path: Path, content: dict[str, Any]) -> Restored:
        found = restored(self._engine(), path, content)
        assert found.state is not None
        self._epoch = found.position.epoch
        self._step = int(found.state.step)
        return found

    def _wait_for(self, others: Sequence[Callable[[float], bool]]) -> None:
        """Waits for other files: what they lack of the time before a backup they'd lack always."""
        for written in others:
            while not (written(_TICK_S) or self._background.given_up):
                pass

    def _shares(self, other: BackupAndRestore) -> bool:
        """Whether both are of one directory, by whatever names."""
        return os.path.realpath(self._directory) == os.path.realpath(other._directory)

    def _engine(self) -> Engine:
        engine = None if self.run is None else self.run.driver.engine
        assert engine is not None
        return engine
