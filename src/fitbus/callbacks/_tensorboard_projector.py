"""Embeddings for TensorBoard's projector: tables of numbers, and what says where they are."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

import numpy as np

from fitbus.callbacks._tensorboard_summaries import as_float
from fitbus.errors import InvalidArgumentError

__all__ = ["Projector"]

_CONFIG = "projector_config.pbtxt"


@final
class Projector:
    """Writes tables of embeddings, and the configuration that TensorBoard's projector reads.

    Args:
        log_dir: Where that is, and
        metadata: the files of labels, relative to it, by the path of a parameter or a part of that;
            or one for all.
    """

    def __init__(self, log_dir: Path, metadata: str | Mapping[str, str] | None) -> None:
        self._log_dir = log_dir
        self._metadata = metadata

    def chosen(self, leaves: Mapping[str, Any]) -> list[str]:
        """The paths of the embeddings among parameters.

        Raises:
            InvalidArgumentError: `metadata` names what is no matrix.
        """
        matrices = [path for path, leaf in leaves.items() if len(leaf.shape) == 2]
        found = {path for path in matrices if "embed" in path.lower()}
        labels = self._metadata if isinstance(self._metadata, Mapping) else {}
        for name in labels:
            meant = {path for path in matrices if _is_in(name, path)}
            if not meant:
                raise InvalidArgumentError(
                    "TensorBoard.embeddings_metadata",
                    name,
                    f"the parameters that can be embeddings, matrices, are {matrices}; give one's"
                    " path, or a part of it between slashes",
                )
            found |= meant
        return [path for path in matrices if path in found]

    def write(self, tables: Mapping[str, np.ndarray[Any, Any]], epoch: int) -> None:
        """Writes a table for each embedding, and lets the configuration point to them."""
        entries: list[str] = []
        for path, table in tables.items():
            place = f"train/embeddings/{path.replace('/', '.')}-{epoch}.tsv"
            file = self._log_dir / place
            file.parent.mkdir(parents=True, exist_ok=True)
            unfinished = file.with_name(f".{file.name}.unfinished")
            np.savetxt(unfinished, as_float(table), fmt="%.7g", delimiter="\t")
            unfinished.replace(file)
            entries.append(_entry(path, table.shape, place, self._labels(path)))
        config = self._log_dir / _CONFIG
        unfinished = config.with_name(f".{config.name}.unfinished")
        unfinished.write_text("".join(entries), "utf-8")
        unfinished.replace(config)

    def _labels(self, path: str) -> str | None:
        if isinstance(self._metadata, Mapping):
            return next((v for name, v in self._metadata.items() if _is_in(name, path)), None)
        return self._metadata


def _is_in(name: str, path: str) -> bool:
    """Whether a name is a path, or a part of it between slashes."""
    return f"/{name}/" in f"/{path}/"


def _entry(name: str, shape: tuple[int, ...], place: str, labels: str | None) -> str:
    """An embedding in the text form of protocol buffers, whose strings are spelled as in JSON."""
    fields: list[tuple[str, object]] = [("tensor_name", name)]
    fields += [("tensor_shape", size) for size in shape]
    fields.append(("tensor_path", place))
    if labels is not None:
        fields.append(("metadata_path", labels.replace(os.sep, "/")))
    lines = (f"  {field}: {json.dumps(value, ensure_ascii=False)}\n" for field, value in fields)
    return "embeddings {\n" + "".join(lines) + "}\n"
