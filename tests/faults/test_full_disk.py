"""A disk that is full for a while, under each file that a training writes.

Scenario 32.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ._small_disk import kind_here, told_by

pytestmark = pytest.mark.slow  # one process for all, with a disk of its own

KIND = kind_here()
SIZES = {"backup 0": 0, "backup 1": 1, "backup 2": 2, "backup 3": 2}
POLICIES = ("log", "unsubscribe", "stop")


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What came of each scenario."""
    folder = tmp_path_factory.mktemp("full")
    (folder / "small").mkdir()
    (folder / "roomy").mkdir()
    program = Path(__file__).with_name("_full_disk.py")
    return told_by(program, folder / "small", str(folder / "roomy"), kind=KIND)


def is_named(found: dict[str, Any]) -> bool:
    # A limit is one of all files, and those on the other disk may come to it first.
    return KIND == "limit" or any(path in found["message"] for path in found["paths"])


@pytest.mark.parametrize("name", ["csv", "json", "journal", "board", "checkpoint", "all"])
def test_it_ends_the_training_which_then_goes_on_and_nothing_is_lost(
    told: dict[str, Any], name: str
) -> None:
    """The error names the file. No backup counts that is of a later time than what was lost."""
    found = told[name]
    assert found["kind"] in ("OSError", "FitbusError")
    assert found["of the disk"]
    assert is_named(found), found["message"]
    assert found["backups"]
    assert all(found["backups"].values())
    assert found["after"] == ""
    assert found["differs"] == []


@pytest.mark.parametrize("name", SIZES)
def test_backups_of_which_few_fit_leave_the_last_good_one(told: dict[str, Any], name: str) -> None:
    """Where there is room for three, that is enough; where there is for none, it begins anew."""
    found, kept = told[name], SIZES[name]
    assert all(found["backups"].values())
    if KIND == "limit":  # each by itself fits, or none does
        kept = 0 if kept == 0 else 2
    assert len(found["backups"]) == kept
    if kept == 0 or (name != "backup 3" and KIND != "limit"):
        assert found["kind"] == "OSError"
        assert is_named(found), found["message"]
    else:
        assert found["kind"] is None
    assert found["after"] == ""
    assert found["differs"] == ([] if found["backups"] else ["board"])  # which keeps what was


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("name", ["json", "journal"])
def test_it_goes_on_or_stops_by_the_policy_and_the_file_can_be_read(
    told: dict[str, Any], name: str, policy: str
) -> None:
    """Half of what didn't fit isn't left in it."""
    found = told[f"{name} {policy}"]
    if KIND == "limit":  # the other files come to it, too
        assert found["seqs"] == sorted(set(found["seqs"]))
        assert all("OSError: [Errno" in each for each in found["told"])
        return
    assert found["kind"] is None
    assert found["reason"] == ["stopped" if policy == "stop" else "completed"]
    assert all("OSError: [Errno" in each for each in found["told"])
    assert found["path"] in found["told"][0]
    seqs, others = found["seqs"], found["other"]
    assert seqs == sorted(set(seqs))
    assert len(seqs) < seqs[-1] + 1 or policy != "log"
    assert (found["types"][-1] == "TrainEnd") == (policy == "log")
    if policy != "log":
        assert len(found["told"]) == 1
        assert seqs == list(range(len(seqs)))
    assert others == list(range(len(others)))
