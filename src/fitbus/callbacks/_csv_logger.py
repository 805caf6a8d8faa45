"""Writes a row of a CSV file each epoch."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, final

from fitbus._files import naming
from fitbus.callbacks._arguments import check_flag
from fitbus.callbacks._background import Background
from fitbus.callbacks._callback import Callback, Logs
from fitbus.callbacks._last_line import end_last_line
from fitbus.errors import InvalidArgumentError

if TYPE_CHECKING:
    from fitbus.train import Run

__all__ = ["CSVLogger"]

_MISSING = "NA"


@final
class CSVLogger(Callback):
    """Writes a row of a CSV file each epoch; Keras' semantics, and the bytes of its file.

    The columns are `epoch` (from 0), and the names of the first epoch's logs, sorted. Where those
    have no `val_*`, columns for the values of a later validation follow. What an epoch doesn't have
    is `NA`; a list is written as `"[a, b]"`. Put it after callbacks that add to the logs.

    A thread of its own writes, in order; each row is in the file soon after its epoch, whatever
    comes then, and all of them are when `fit` returns. A file that is taken away meanwhile is begun
    anew, with its header. (After a cancellation, a disk that is too
    slow for half of `grace_s` may lack the last ones.) Between two rows the file isn't held open.

    Differs from Keras in what gets lost or made up there: the `val_*` columns are those that a
    validation can fill, so there is no `val_learning_rate`; a name that first appears in a later
    epoch gets a column of its own at the end (the file is then replaced by one that has it, with
    `NA` in the rows before), where Keras drops it; `append=True` takes the columns of the file as
    they are, where Keras writes the new ones beneath the old header. It is UTF-8 everywhere.

    A training that goes on from a backup goes on with the file, with or without `append`: the rows
    of its first epoch and those after are taken out before it writes them again, the rows of
    earlier trainings stay. So does one before which `load_state_dict` was called by hand. Half a
    row at the end, which a power failure may leave, is cut off then, and half a header. In a
    training that doesn't go on, `append=True` ends the last row of the file, if it has no end.

    Args:
        filename: The file. Its directory must be there.
        separator: What stands between two columns: one character.
        append: Whether what is in the file stays. Then a header is written only into an empty file.
        timeout_s: Seconds that a slow disk may take, at the beginning, for room, and at the end.

    Raises:
        InvalidArgumentError: An argument is out of its range; in `fit`, before the first step: it
            should append to what isn't a file of this kind.
        OSError: In `fit`: the file can't be written; it names the path.
        TimeoutError: In `fit`: the disk takes longer than `timeout_s`.

    Source: Keras' `CSVLogger`; RFC 4180 for the quotes.
    """

    adds_logs: ClassVar[bool | frozenset[str]] = False

    def __init__(
        self,
        filename: str | os.PathLike[str],
        separator: str = ",",
        append: bool = False,
        *,
        timeout_s: float = 30.0,
    ) -> None:
        if not isinstance(filename, str | os.PathLike) or not os.fspath(filename):
            raise InvalidArgumentError("CSVLogger.filename", filename, "give the path of a file")
        if not isinstance(separator, str) or len(separator) != 1 or separator in '"\r\n':
            raise InvalidArgumentError(
                "CSVLogger.separator", separator, "give one character, no quote or line end"
            )
        check_flag("CSVLogger", "append", append)
        self.filename = os.fspath(filename)
        self.sep = separator
        self.append = append
        self._background = Background("CSVLogger", timeout_s)
        self._known: frozenset[str] = frozenset()
        self._before = 0
        self._resumed: int | None = None
        self._table = _Table(Path(self.filename), separator)

    def attach(self, run: Run[Any]) -> None:
        """Subscribes to a run; `callbacks=[...]` calls it."""
        super().attach(run)
        self._background.attach(run)

    def _check_names(self, names: frozenset[str]) -> None:
        super()._check_names(names)
        self._known = names  # without those that callbacks add: no validation has these

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Opens the file, and empties it unless it is gone on with."""
        assert self.run is not None
        self._known = frozenset()
        self._table = table = _Table(Path(self.filename), self.sep)
        # What this one remembers of a backup is loaded after this hook; its rows are needed then.
        anew = self._resumed is None and self.run.preparation.resumed is None
        self._background.submit(partial(table.open, append=self.append, anew=anew))
        self._background.flush()
        self._before = table.rows_before if self._resumed is None else self._resumed

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Adds a row."""
        cells = {name: _cell(value) for name, value in sorted((logs or {}).items())}
        resumed, self._resumed = self._resumed, None
        names = _columns(list(cells), self._known)
        self._background.submit(partial(self._table.add, epoch, cells, names, resumed))

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Waits until all is written."""
        self._background.close()

    def state_dict(self) -> dict[str, Any]:
        """How many rows the file had before this training."""
        return {"before": self._before}

    def pending_writes(self) -> Callable[[float], bool]:
        """The rows that aren't in the file yet."""
        return self._background.mark()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on with the file: the next row takes out those of its epoch and after."""
        self._before = self._resumed = int(state["before"])


@final
class _Table:
    """The file, for the thread that writes it."""

    def __init__(self, path: Path, separator: str) -> None:
        self._path = path
        self._separator = separator
        self._columns: list[str] = []
        self._is_kept = False
        self._is_begun = False
        self.rows_before = 0

    def open(self, *, append: bool, anew: bool) -> None:
        """Finds out what is there; empties the file if it is neither kept nor gone on with."""
        self._is_kept = append
        if append:
            if anew:  # so that a last line without an end that is found later is one of ours
                self._end_last_line(torn=False)
            self._columns, rows = self._read(torn=not anew)
            self.rows_before = len(rows)
        self._write(b"", anew=anew and not append)

    def add(
        self, epoch: int, cells: Mapping[str, str], names: Sequence[str], resumed: int | None
    ) -> None:
        """Adds a row.

        Args:
            epoch: The epoch, and
            cells: what the row has of it.
            names: The columns of a file that has none yet.
            resumed: Goes on with the file, of whose rows so many were there before the training.
        """
        if resumed is not None:
            self._end_last_line(torn=True)
            self._columns, rows = self._read()
            kept = rows[:resumed] + [row for row in rows[resumed:] if int(row[0]) < epoch]
            if len(kept) < len(rows):
                self._replace(kept)
        elif not self._is_begun and self._is_kept:
            self._end_last_line(torn=False)
            self._columns, _ = self._read()
        elif not self._is_begun:
            self._write(b"", anew=True)
        self._is_begun = True
        if not self._columns:
            self._columns = ["epoch", *names]
            self._write(self._text([self._columns]))
        elif not self._path.exists():  # somebody took it away
            self._write(self._text([self._columns]))
        late = [name for name in cells if name not in self._columns]
        if late:
            _, rows = self._read()
            self._columns += late
            self._replace([row + [_MISSING] * len(late) for row in rows])
        row = [str(epoch), *(cells.get(name, _MISSING) for name in self._columns[1:])]
        self._write(self._text([row]))

    def _end_last_line(self, *, torn: bool) -> None:
        """Begins a line of its own; one before without an end was `torn`, or is somebody's."""
        with naming(self._path):
            end_last_line(self._path, lambda line: not torn or line.endswith(b"\r"))

    def _read(self, *, torn: bool = False) -> tuple[list[str], list[list[str]]]:
        """The columns and the rows of the file; none of one that isn't there.

        Args:
            torn: Whether a last line without an end may be half of one, and doesn't count.
        """
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return [], []
        if torn:
            data = data[: data.rfind(b"\n") + 1]
        found = csv.reader(io.StringIO(data.decode(), newline=""), delimiter=self._separator)
        header, *rows = list(found) or [[]]
        if header and header[0] != "epoch":
            raise InvalidArgumentError(
                "CSVLogger.filename",
                str(self._path),
                f"its first line, {self._separator.join(header)!r}, is no header of such a file;"
                " give another file, the separator that it has, or append=False",
            )
        return header, [row for row in rows if row]

    def _replace(self, rows: Sequence[Sequence[str]]) -> None:
        """Puts a file of other rows in its place, at one stroke."""
        path = Path(os.path.realpath(self._path))
        new = path.with_name(f".{path.name}.new")
        with naming(self._path):
            new.write_bytes(self._text([self._columns, *rows]))
            shutil.copymode(path, new)
            new.replace(path)

    def _text(self, rows: Iterable[Sequence[str]]) -> bytes:
        text = io.StringIO(newline="")
        csv.writer(text, delimiter=self._separator).writerows(rows)
        return text.getvalue().encode()

    def _write(self, data: bytes, *, anew: bool = False) -> None:
        before = self._path.stat().st_size if data and self._path.is_file() else None
        with naming(self._path):
            try:
                with self._path.open("wb" if anew else "ab") as file:
                    file.write(data)
            except OSError:
                if before is not None:  # half a row would stay, if nobody came to write another
                    with contextlib.suppress(OSError):
                        os.truncate(self._path, before)
                raise


def _columns(names: list[str], known: frozenset[str]) -> list[str]:
    """The columns of a file whose first row has these names.

    Args:
        names: Those of the first epoch's logs, sorted.
        known: Those that training and validation give.
    """
    later = {name for name in known if name.startswith("val_")}
    if not later and not any(name.startswith("val_") for name in names):
        later = {f"val_{name}" for name in known}  # as in Keras, should one come in another `fit`
    in_order = [f"val_{name}" for name in names if f"val_{name}" in later]
    in_order += sorted(later.difference(in_order))
    return names + [name for name in in_order if name not in names]


def _cell(value: object) -> str:
    """A value as text."""
    if value is None:
        return ""
    if isinstance(value, str) or not isinstance(value, Iterable):
        return str(value)
    if getattr(value, "ndim", None) == 0:
        return str(value)
    return f'"[{", ".join(map(str, value))}]"'
