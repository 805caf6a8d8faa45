"""Whole states under numbers, in a directory of Orbax' `CheckpointManager`."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, final

from fitbus._files import sync
from fitbus.checkpoints._disk import (
    REPLACED,
    absolute,
    delete_checkpoint,
    previous_of,
    writing,
)
from fitbus.checkpoints._extra import check_installed
from fitbus.checkpoints._named import Array
from fitbus.checkpoints._orbax import (
    MARK,
    apart,
    check_replaceable,
    is_sealed,
    may_be_whole,
    nested,
    put_back_read,
    seal,
)
from fitbus.errors import InvalidArgumentError

__all__ = ["NumberedStates"]

T = TypeVar("T")


@final
class NumberedStates:
    """States, or other pytrees, that Orbax' `CheckpointManager` keeps under numbers.

    What `OrbaxCheckpoint` has written is read so:

        with fitbus.checkpoints.NumberedStates("checkpoints") as states:
            trainer = fitbus.Trainer(task, states.load(trainer.state))

    Orbax itself reads it too, as nested dictionaries of NumPy arrays:
    `orbax.checkpoint.CheckpointManager(directory).restore(number,
    args=orbax.checkpoint.args.StandardRestore())`.

    Each is there whole or not at all, also after a kill. For one thread at a time; it waits for the
    disk.

    Args:
        directory: Where they lie; made if it isn't there.
        max_to_keep: So many of those written last are kept, and the others deleted when another one
            is complete; None keeps all.

    Raises:
        InvalidArgumentError: An argument is out of range, or `directory` is a file.
        FitbusError: Orbax isn't installed, or the directory can't be made.

    Source: https://orbax.readthedocs.io
    """

    def __init__(self, directory: str | Path, max_to_keep: int | None = None) -> None:
        check_installed("NumberedStates", "orbax.checkpoint")
        whole = isinstance(max_to_keep, int) and not isinstance(max_to_keep, bool)
        if max_to_keep is not None and not (whole and max_to_keep > 0):
            raise InvalidArgumentError(
                "max_to_keep", max_to_keep, "give a whole number of at least 1, or None"
            )
        self._directory = absolute(directory)
        if self._directory.exists() and not self._directory.is_dir():
            raise InvalidArgumentError(
                "directory", str(directory), "it is a file; give another path"
            )
        self._max_to_keep = max_to_keep
        self._manager: Any = None

    @property
    def directory(self) -> Path:
        """Where they lie."""
        return self._directory

    def numbers(self) -> list[int]:
        """Which whole ones there are, in the order in which they were written.

        Looks at the sizes of files, not at all their bytes.
        """
        return [number for number, place in self._places().items() if may_be_whole(place)]

    def open(self) -> None:
        """Gets ready to write; the first `write` does it otherwise.

        Makes the directory, and removes what a killed process has left half-written.

        Raises:
            FitbusError: The directory can't be made; the message names it.
        """
        if self._manager is None:
            with writing(self._directory):
                self._directory.mkdir(parents=True, exist_ok=True)
                for replaced in self._directory.glob(f".*{REPLACED}"):
                    target = _place_of(replaced)
                    if not target.name.isdecimal():
                        continue  # somebody else's
                    if is_sealed(target, thoroughly=True):
                        shutil.rmtree(replaced)
                    else:  # its successor never came, or only half of it
                        shutil.rmtree(target, ignore_errors=True)
                        replaced.rename(target)
                self._remove_half()
                self._manager = apart(self._make_manager)

    def write(self, number: int, named: Mapping[str, Array]) -> Path:
        """Writes what `named_arrays` copied; one of the same number stays until it is complete.

        Args:
            number: Its number, from 0.
            named: The arrays, by name; nobody may change them meanwhile.

        Returns:
            Where it lies.

        Raises:
            FitbusError: It can't be written; the message names it.
            InvalidArgumentError: `number` is none; or something else has its place.
        """
        if isinstance(number, bool) or not isinstance(number, int) or number < 0:
            raise InvalidArgumentError("number", number, "give a whole number of at least 0")
        self.open()
        target = self._directory / str(number)
        check_replaceable("directory", target)
        with writing(target):
            replaced = previous_of(target) if target.exists() else None
            if replaced is not None:
                target.rename(replaced)  # Orbax wouldn't save it
            try:
                apart(lambda: self._save(number, named))
                seal(target)
                sync(self._directory)
            except Exception as error:  # Orbax and TensorStore say it in many ways
                self._remove_half()
                if replaced is not None:
                    shutil.rmtree(target, ignore_errors=True)
                    replaced.rename(target)
                raise OSError(f"{type(error).__name__}: {error}") from error
            if replaced is not None:
                shutil.rmtree(replaced)
            if self._max_to_keep is not None:
                others = [other for other in self.numbers() if other != number]
                for old in others[: max(0, len(others) + 1 - self._max_to_keep)]:
                    delete_checkpoint(self._directory / str(old))
        return target

    def load(self, like: T, number: int | None = None) -> T:
        """Reads one.

        Args:
            like: A tree of the same structure, shapes and dtypes, such as a new trainer's state, or
                its `params` where only those were saved. The new arrays lie where its arrays do.
            number: Which one; the whole one written last unless given.

        Raises:
            InvalidArgumentError: There is no such number; or a name, a shape or a dtype differs:
                the first one at fault is named.
            FitbusError: It is truncated or corrupted.
        """
        places = self._places()
        chosen = self._newest(places) if number is None else number
        if chosen not in places:
            raise InvalidArgumentError("number", number, f"{self._directory} has {[*places]}")
        return put_back_read(like, places[chosen], _read)

    def close(self) -> None:
        """Lets Orbax go. Closing again does nothing."""
        manager, self._manager = self._manager, None
        if manager is not None:
            apart(manager.close)

    def __enter__(self) -> Self:
        """Gives itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Closes it."""
        self.close()

    def __repr__(self) -> str:
        """Shows where it is."""
        return f"<NumberedStates in {str(self._directory)!r}>"

    def _newest(self, places: dict[int, Path]) -> int | None:
        """The whole one that was written last; or, if there is none, the damaged one."""
        newest = next(reversed(places), None)
        whole = next((n for n in reversed(places) if may_be_whole(places[n])), newest)
        if newest != whole:
            warnings.warn(
                f"{places[newest]} is damaged; {places[whole]}, which is whole, is read instead",  # type: ignore[index]  # there is one
                RuntimeWarning,
                stacklevel=3,
            )
        return whole

    def _remove_half(self) -> None:
        """Removes what Orbax hasn't finished."""
        for half in self._directory.glob("*.orbax-checkpoint-tmp*"):
            shutil.rmtree(half, ignore_errors=True)

    def _places(self) -> dict[int, Path]:
        """Where each one lies, in the order in which they were written."""
        found: list[tuple[int, int, Path]] = []
        for mark in self._directory.glob(f"*/{MARK}"):
            target = _place_of(mark.parent)
            moved = target != mark.parent  # aside, for a successor
            if moved and is_sealed(target, thoroughly=False):
                continue
            if (
                not moved
                and previous_of(target).exists()
                and not is_sealed(target, thoroughly=False)
            ):
                continue  # its predecessor counts
            if target.name.isdecimal():
                found.append((mark.stat().st_mtime_ns, int(target.name), mark.parent))
        return {number: place for _, number, place in sorted(found)}

    def _make_manager(self) -> Any:
        import orbax.checkpoint as ocp

        options = ocp.CheckpointManagerOptions(enable_async_checkpointing=False, max_to_keep=None)
        return ocp.CheckpointManager(self._directory, options=options)

    def _save(self, number: int, named: Mapping[str, Array]) -> None:
        import orbax.checkpoint as ocp

        self._manager.reload()  # what was deleted isn't there any more
        self._manager.save(number, args=ocp.args.StandardSave(nested(named)), force=True)


def _read(place: Path) -> Any:
    """Reads one where it lies: a manager would tidy up what is being written."""
    import orbax.checkpoint as ocp

    handler = ocp.CompositeCheckpointHandler(default=ocp.StandardCheckpointHandler())
    with ocp.Checkpointer(handler) as checkpointer:
        found: Any = checkpointer.restore(
            place, args=ocp.args.Composite(default=ocp.args.StandardRestore())
        )
        return found.default


def _place_of(path: Path) -> Path:
    """The place of what may have been moved aside."""
    name = path.name
    if name.startswith(".") and name.endswith(REPLACED):
        name = name.removeprefix(".").removesuffix(REPLACED)
    return path.with_name(name)
