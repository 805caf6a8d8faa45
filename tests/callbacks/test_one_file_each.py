"""Two callbacks of one training that would write the same file are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fitbus.callbacks import BackupAndRestore, CSVLogger, Journal, JSONLogger
from fitbus.errors import InvalidArgumentError

from ._interrupted import X, Y, new_trainer


@pytest.mark.parametrize("make", [BackupAndRestore, CSVLogger, Journal, JSONLogger])
def test_one_path_for_two_is_refused(tmp_path: Path, make: Callable[[Path], Any]) -> None:
    """By whatever name; before anything is written."""
    (tmp_path / "link").symlink_to(tmp_path)
    name = make.__name__
    with pytest.raises(InvalidArgumentError, match=f"{name} and {name}'; both write"):
        new_trainer().run(X, Y, callbacks=[make(tmp_path / "f"), make(tmp_path / "link" / "f")])
    assert not (tmp_path / "f").exists()
