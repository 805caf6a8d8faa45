"""A checkpoint's path, with fields that are filled in when it is saved."""

from __future__ import annotations

import re
import string
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, final

from fitbus.callbacks._arguments import path_of
from fitbus.errors import InvalidArgumentError

__all__ = ["CheckpointPath"]

_OWNER = "ModelCheckpoint.filepath"


@final
class CheckpointPath:
    """`ModelCheckpoint`'s `filepath`: its ending and its fields are checked.

    Args:
        filepath: The path, with fields as of `str.format`.
        weights: Whether it is of a file of weights, not of a whole state.

    Attributes:
        text: The path as it was given.
        fields: The names of its fields.
    """

    def __init__(self, filepath: str | Path, *, weights: bool) -> None:
        self.text = path_of("ModelCheckpoint", "filepath", filepath)
        _check_ending(self.text, weights=weights)
        self.fields = _fields_of(self.text)

    def filled(self, epoch: int, batch: int | None, logs: Mapping[str, Any]) -> str:
        """The absolute path for an epoch and a batch, both from 0, and the logs."""
        values = {**({} if batch is None else {"batch": batch + 1}), **logs, "epoch": epoch + 1}
        try:
            return str(Path(self.text.format(**values)).absolute())
        except KeyError as error:
            raise self._unknown(str(error.args[0]), values) from error
        except (AttributeError, IndexError, TypeError, ValueError) as error:
            raise InvalidArgumentError(
                _OWNER, self.text, f"it can't be filled in: {error}"
            ) from error

    def check_names(self, names: frozenset[str], *, by_batch: bool) -> None:
        """Refuses a field that there will never be anything for.

        Args:
            names: Those that the logs of an epoch will have.
            by_batch: Whether it is filled in after batches, whose logs have no validation.
        """
        known = {"epoch", *names}
        if by_batch:
            known = {"batch", *(name for name in known if not name.startswith("val_"))}
        for field in sorted(self.fields):
            if field not in known:
                raise self._unknown(field, known)

    def _unknown(self, field: str, known: Iterable[str]) -> InvalidArgumentError:
        return InvalidArgumentError(
            _OWNER, self.text, f"nothing is called {field!r}; it can be filled with {sorted(known)}"
        )


def _fields_of(filepath: str) -> frozenset[str]:
    """The names in a path's fields."""
    try:
        names = [name for _, name, _, _ in string.Formatter().parse(filepath) if name is not None]
    except ValueError as error:
        raise InvalidArgumentError(
            _OWNER, filepath, f"it is no format: {error}; a brace itself is written twice"
        ) from error
    fields = frozenset(re.split(r"[.\[]", name)[0] for name in names)
    if any(not field or field.isdigit() for field in fields):
        raise InvalidArgumentError(_OWNER, filepath, "give its fields names, such as {epoch:02d}")
    return fields


def _check_ending(filepath: str, *, weights: bool) -> None:
    """Refuses Keras' endings, and those of the other kind."""
    ending = next((e for e in (".weights.h5", ".h5", ".keras") if filepath.endswith(e)), "")
    name = filepath.removesuffix(ending).removesuffix(".safetensors")
    if weights and (ending or not filepath.endswith(".safetensors")):
        raise InvalidArgumentError(
            _OWNER,
            filepath,
            f"weights are written as safetensors: write {name + '.safetensors'!r}",
        )
    if not weights and (ending or filepath.endswith(".safetensors")):
        raise InvalidArgumentError(
            _OWNER,
            filepath,
            f"a whole state is a directory of Orbax': write {name!r}, or save_weights_only=True"
            f" and {name + '.safetensors'!r}",
        )
