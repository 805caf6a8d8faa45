"""Folders that can't be written to, from the first step on or from a later one; what vanishes.

Scenario 32.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ._small_disk import kind_here, told_by

pytestmark = pytest.mark.slow  # one process for all, with a disk of its own

FILES = ("backup", "csv", "json", "journal", "board", "checkpoint")


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What came of each scenario."""
    folder = tmp_path_factory.mktemp("read_only")
    (folder / "small").mkdir()
    (folder / "roomy").mkdir()
    program = Path(__file__).with_name("_read_only.py")
    return told_by(program, folder / "small", str(folder / "roomy"), kind=kind_here())


@pytest.mark.parametrize("name", FILES)
def test_a_read_only_folder_ends_the_training_naming_the_path(
    told: dict[str, Any], name: str
) -> None:
    """Before the first step, where it isn't a matter of what runs beside or comes later."""
    found = told[f"before {name} raise"]
    assert found["of the disk"]
    path = found["path"] if name != "board" else str(Path(found["path"]).parent)
    assert path in found["message"]
    assert any(why in found["message"] for why in ("Read-only", "Permission denied"))
    if name == "checkpoint":
        assert "can be written to" in found["message"]
    assert found["steps"] == 0 or name in ("json", "journal", "checkpoint")
    assert found["steps"] < 50


@pytest.mark.parametrize("name", ["json", "journal"])
@pytest.mark.parametrize("policy", ["log", "unsubscribe", "stop"])
def test_or_it_goes_on_by_the_policy(told: dict[str, Any], name: str, policy: str) -> None:
    found = told[f"before {name} {policy}"]
    assert found["kind"] is None
    assert (found["steps"] == 50) == (policy != "stop")


@pytest.mark.parametrize("name", FILES)
def test_one_that_can_be_written_to_again_is_gone_on_with(told: dict[str, Any], name: str) -> None:
    """The same training ends as if nothing had been, with the same files."""
    found = told[f"amid {name}"]
    assert found["kind"] == ("FitbusError" if name == "checkpoint" else "OSError") or (
        found["kind"] == "PermissionError"
    )
    assert found["path"] in found["message"]
    assert found["backups"]
    assert all(found["backups"].values())
    assert found["after"] == ""
    assert found["differs"] == []


@pytest.mark.parametrize("name", ["csv", "json", "journal"])
def test_a_folder_that_is_never_made_ends_the_training_when_it_vanishes(
    told: dict[str, Any], name: str
) -> None:
    found = told[f"folder {name}"]
    assert found["kind"] == "FileNotFoundError"
    assert found["path"] in found["message"]
    assert found["left"] is None


@pytest.mark.parametrize("what", ["file", "folder"])
def test_what_makes_its_folder_makes_it_again(told: dict[str, Any], what: str) -> None:
    backups, board, checkpoints = (
        told[f"{what} {name}"] for name in ("backup", "board", "checkpoint")
    )
    assert [each["kind"] for each in (backups, board, checkpoints)] == [None] * 3
    assert backups["left"]
    assert all(backups["left"].values())
    assert board["left"] == list(range(13, 51))
    assert checkpoints["left"] == sorted(f"{epoch}.safetensors" for epoch in range(3, 11))


def test_a_table_that_vanishes_is_begun_anew_with_its_header(told: dict[str, Any]) -> None:
    found = told["file csv"]
    assert found["kind"] is None
    assert found["left"] == ["epoch", *map(str, range(2, 10))]


def test_so_are_lines(told: dict[str, Any]) -> None:
    """Those that come later are there, each once."""
    found = told["file json"]
    assert found["kind"] is None
    first, last = found["left"][0], found["left"][-1]
    assert found["left"] == list(range(first, last + 1))


def test_a_journal_doesnt_go_on_without_what_came_before(told: dict[str, Any]) -> None:
    """It would be one with a hole, or one that can't be read."""
    found = told["file journal"]
    assert found["kind"] == "FileNotFoundError"
    assert f"{found['path']}/000001.journal" in found["message"]
    assert "no journal" in found["left"]
