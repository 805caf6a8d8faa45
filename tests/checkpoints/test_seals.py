"""The file of checksums: whole or not there, and what is deleted depends on it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fitbus.checkpoints import NumberedStates, load_state, named_arrays, save_state
from fitbus.errors import FitbusError

from .conftest import hidden

LIKE: dict[str, Any] = {"w": np.zeros(3)}
SEAL = "_FITBUS_CRC32"

# A process that dies, without tidying up, when it has opened the seal's file and written nothing.
DYING = """
import os, sys
import numpy as np
from fitbus.checkpoints import NumberedStates, named_arrays, save_state

armed = False
def die(event, arguments):
    path = str(arguments[0]) if event == "open" else ""
    if armed and "_FITBUS_CRC32" in path and isinstance(arguments[1], str) and "w" in arguments[1]:
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC))
        os._exit(9)

def write(value):
    if sys.argv[1] == "numbered":
        states.write(int(sys.argv[2]) if armed else 0, named_arrays({"w": np.full(3, value)}))
    else:
        save_state("state", {"w": np.full(3, value)})

with NumberedStates(".") as states:
    write(1.0)
    sys.addaudithook(die)
    armed = True
    write(2.0)
"""


def die(folder: Path, *arguments: str) -> None:
    ran = subprocess.run([sys.executable, "-c", DYING, *arguments], cwd=folder, check=False)
    assert ran.returncode == 9, "it didn't come to the seal"


@pytest.mark.slow
def test_killed_at_the_seal_of_a_new_number_it_leaves_what_can_be_read(tmp_path: Path) -> None:
    """What Orbax had completed is there; there is no half of a seal."""
    die(tmp_path, "numbered", "1")
    assert not (tmp_path / "1" / SEAL).exists()
    with NumberedStates(tmp_path) as states:
        for number in states.numbers():
            assert (states.load(LIKE, number)["w"] == number + 1).all()
        assert 0 in states.numbers()
        states.write(2, named_arrays({"w": np.full(3, 3.0)}))
        assert (states.load(LIKE)["w"] == 3).all()


@pytest.mark.slow
def test_killed_at_the_seal_of_the_same_number_the_one_before_is_put_back(tmp_path: Path) -> None:
    die(tmp_path, "numbered", "0")
    assert hidden(tmp_path) == [".0.previous"]
    with NumberedStates(tmp_path) as states:
        assert states.numbers() == [0]
        assert (states.load(LIKE)["w"] == 1).all()
        states.open()
        assert (states.load(LIKE)["w"] == 1).all()
    assert hidden(tmp_path) == []


@pytest.mark.slow
def test_killed_at_the_seal_of_a_state_the_one_before_stays(tmp_path: Path) -> None:
    die(tmp_path, "state")
    assert (load_state(tmp_path / "state", LIKE)["w"] == 1).all()


def test_numbers_are_of_whole_ones(tmp_path: Path) -> None:
    """A seal that is empty or cut off, or a file that is; which one is read instead is told."""
    with NumberedStates(tmp_path) as states:
        for number in (0, 1):
            states.write(number, named_arrays({"w": np.full(3, float(number))}))
        seal = tmp_path / "1" / SEAL
        sealed = seal.read_text()
        first = next(re.finditer(r'"(default/[^"]*)"', sealed))[1]
        for file, bad in (
            (seal, ""),
            (seal, sealed[:-9]),
            (seal, "[1]"),
            (tmp_path / "1" / first, ""),
        ):
            was = file.read_bytes()
            file.write_text(bad)
            assert states.numbers() == [0], file
            with pytest.warns(RuntimeWarning, match=r"/1 is damaged; .*/0, which is whole"):
                assert (states.load(LIKE)["w"] == 0).all()
            with pytest.raises(FitbusError, match="/1 couldn't be read"):
                states.load(LIKE, 1)
            file.write_bytes(was)
        assert states.numbers() == [0, 1]


def test_the_one_aside_stays_until_its_successor_checks(tmp_path: Path) -> None:
    """Of the same size, with other bytes; or without a seal."""
    with NumberedStates(tmp_path) as states:
        states.write(0, named_arrays({"w": np.ones(3)}))
        shutil.copytree(tmp_path / "0", tmp_path / ".0.previous")
    data = max((p for p in (tmp_path / "0").rglob("*") if p.is_file()), key=os.path.getsize)
    whole = data.read_bytes()
    data.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with NumberedStates(tmp_path) as states:
        states.open()
        assert (states.load(LIKE)["w"] == 1).all()
    assert hidden(tmp_path) == []


def test_a_damaged_state_does_not_displace_the_whole_one_aside(tmp_path: Path) -> None:
    path = tmp_path / "s"
    save_state(path, {"w": np.ones(3)})
    shutil.copytree(path, tmp_path / ".s.previous")
    (path / SEAL).write_text("")
    assert (load_state(path, LIKE)["w"] == 1).all()
    save_state(path, {"w": np.full(3, 2.0)})
    assert (load_state(path, LIKE)["w"] == 2).all()
    assert hidden(tmp_path) == []
