"""Files that are missing, damaged, of the wrong kind, or can't be written."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fitbus.checkpoints import (
    NumberedStates,
    delete_checkpoint,
    load_state,
    load_weights,
    named_arrays,
    save_state,
    save_weights,
)
from fitbus.errors import FitbusError, InvalidArgumentError
from fitbus.train import TrainState

from .conftest import bits, hidden, refuses

TREE = {"w": np.arange(40, dtype=np.float32), "n": np.int32(7)}
BIG = {"w": np.random.default_rng(0).random(2**18)}  # 2 MiB that can't be compressed


@contextmanager
def full_disk(size: int = 2**19) -> Generator[None, None, None]:
    """No file may grow beyond a size: writing fails in the middle, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def test_weights_damaged_anywhere_are_never_taken_for_good(tmp_path: Path) -> None:
    """Whichever byte is changed: an error that names the file, or the same arrays."""
    path = tmp_path / "w"
    save_weights(path, TREE)
    whole = path.read_bytes()
    refused = 0
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x41]) + whole[place + 1 :])
        refused += refuses(load_weights, path, TREE)
    assert refused > len(whole) * 0.9
    data = 40 * 4 + 4
    path.write_bytes(whole[:-data] + bytes(data))
    with pytest.raises(FitbusError, match=r"is corrupted: the bytes of '[nw]' aren't those that"):
        load_weights(path, TREE)


def test_weights_cut_off_anywhere_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w"
    save_weights(path, TREE)
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(FitbusError, match="couldn't be read: it is truncated") as raised:
            load_weights(path, TREE)
        assert str(path) in str(raised.value)
        assert raised.value.__cause__ is not None


def test_files_of_a_state_that_are_cut_off_or_gone_are_refused(
    tmp_path: Path, state: TrainState
) -> None:
    """Whichever file it is; without the one that has the checksums, Orbax' own checks are left."""
    path = tmp_path / "s"
    save_state(path, state)
    seal = path / "_FITBUS_CRC32"
    for file in sorted(found for found in path.rglob("*") if found.is_file()):
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 2])
        assert not whole or refuses(load_state, path, state), file
        file.unlink()
        assert refuses(load_state, path, state) == (file != seal), file
        file.write_bytes(whole)
    assert bits(load_state(path, state)) == bits(state)


def test_changed_bytes_of_a_state_are_never_taken_for_good(tmp_path: Path) -> None:
    path = tmp_path / "s"
    save_state(path, BIG)
    data = max((p for p in path.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    whole = data.read_bytes()
    for place in np.linspace(0, len(whole) - 1, 10).astype(int):
        data.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        assert refuses(load_state, path, BIG)


KINDS: dict[str, tuple[Any, Any, str]] = {
    "weights that aren't there": (load_weights, "none", "there is no such file"),
    "a state that isn't there": (load_state, "none", "there is no such directory"),
    "a directory for weights": (load_weights, "state", "it is a directory; a whole state is read"),
    "a file for a state": (load_state, "weights", "it is a file, and a whole state a directory"),
    "weights to a directory": (save_weights, "state", "it is a directory; give the path of a file"),
    "a state to a file": (save_state, "weights", "it is a file; a whole state is a directory"),
    "a state to a full directory": (save_state, "full", "it is a directory with something else"),
}


@pytest.mark.parametrize("case", KINDS)
def test_paths_of_the_wrong_kind_are_refused_and_left_as_they_are(
    tmp_path: Path, case: str
) -> None:
    call, name, problem = KINDS[case]
    save_weights(tmp_path / "weights", TREE)
    save_state(tmp_path / "state", TREE)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with pytest.raises(InvalidArgumentError) as raised:
        call(tmp_path / name, TREE)
    assert str(raised.value).startswith(f"path: found {str(tmp_path / name)!r}; {problem}")
    assert bits(load_weights(tmp_path / "weights", TREE)) == bits(TREE)
    assert bits(load_state(tmp_path / "state", TREE)) == bits(TREE)
    assert (tmp_path / "full" / "thesis.txt").read_text() == "mine"
    assert hidden(tmp_path) == []


@pytest.mark.parametrize("path", ["", None, 3, b"w"])
@pytest.mark.parametrize("call", [save_weights, load_weights, save_state, load_state])
def test_what_is_no_path_is_refused(call: Any, path: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="path: found"):
        call(path, TREE)


def test_a_file_of_another_kind_says_so(tmp_path: Path) -> None:
    path = tmp_path / "w"
    np.save(path, np.zeros(3))
    path.with_suffix(".npy").rename(path)
    with pytest.raises(FitbusError, match="no safetensors file"):
        load_weights(path, TREE)


def test_a_directory_of_another_kind_says_so(tmp_path: Path) -> None:
    with pytest.raises(FitbusError, match="no checkpoint of a"):
        load_state(tmp_path, TREE)


def test_an_empty_directory_becomes_a_state(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    save_state(tmp_path / "s", TREE)
    assert bits(load_state(tmp_path / "s", TREE)) == bits(TREE)


@pytest.mark.parametrize("save", [save_weights, save_state])
def test_a_folder_that_is_a_file_is_named_with_what_to_do(tmp_path: Path, save: Any) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file" / "w", tmp_path / "file" / "deeper" / "w"):
        with pytest.raises(FitbusError) as raised:
            save(path, TREE)
        assert str(raised.value).startswith(f"{path} couldn't be written: ")
        assert str(raised.value).endswith("and is there room on the disk?")
        assert isinstance(raised.value.__cause__, OSError)
    assert (tmp_path / "file").read_text() == "x"


@pytest.mark.parametrize("save", [save_weights, save_state])
def test_on_a_full_disk_the_previous_one_survives(tmp_path: Path, save: Any) -> None:
    load = load_weights if save is save_weights else load_state
    path = tmp_path / "it"
    save(path, TREE)
    with full_disk(), pytest.raises(FitbusError) as raised:
        save(path, BIG)
    assert str(raised.value).startswith(f"{path} couldn't be written: ")
    assert bits(load(path, TREE)) == bits(TREE)
    assert hidden(tmp_path) == []
    save(path, BIG)
    assert bits(load(path, BIG)) == bits(BIG)


def test_on_a_full_disk_numbered_states_survive(tmp_path: Path) -> None:
    """Even the one that was to be replaced."""
    with NumberedStates(tmp_path, max_to_keep=1) as states:
        states.write(3, named_arrays(TREE))
        for number in (3, 4):
            with full_disk(), pytest.raises(FitbusError) as raised:
                states.write(number, named_arrays(BIG))
            assert str(raised.value).startswith(f"{tmp_path / str(number)} couldn't be written: ")
            assert states.numbers() == [3]
            assert [path.name for path in tmp_path.iterdir()] == ["3"]
            assert bits(states.load(TREE)) == bits(TREE)
        states.write(4, named_arrays(BIG))
        assert states.numbers() == [4]


def test_deleting_takes_both_kinds_and_what_is_gone(tmp_path: Path) -> None:
    save_weights(tmp_path / "w", TREE)
    save_state(tmp_path / "s", TREE)
    for name in ("w", "s", "none", "none/none"):
        delete_checkpoint(tmp_path / name)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(FitbusError, match=f"{tmp_path}/file/w couldn't be deleted: "):
        delete_checkpoint(tmp_path / "file" / "w")


WITHOUT = """
import sys
sys.modules["safetensors"] = sys.modules["orbax"] = None
import fitbus.checkpoints as checkpoints
from fitbus.callbacks import ModelCheckpoint, OrbaxCheckpoint
for call in (
    lambda: checkpoints.save_weights("w", 1),
    lambda: checkpoints.load_weights("w", 1),
    lambda: checkpoints.save_state("w", 1),
    lambda: checkpoints.load_state("w", 1),
    lambda: checkpoints.NumberedStates("w"),
    lambda: ModelCheckpoint("w"),
    lambda: ModelCheckpoint("w.safetensors", save_weights_only=True),
    lambda: OrbaxCheckpoint("w"),
):
    try:
        call()
    except Exception as error:
        print(type(error).__name__, error)
"""


@pytest.mark.slow
def test_without_the_extra_each_says_what_to_install(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        cwd=tmp_path,
    )
    orbax, safetensors = (
        f'needs {name}, which isn\'t installed: pip install "fitbus[checkpoint]"'
        for name in ("orbax.checkpoint", "safetensors")
    )
    assert done.stdout.splitlines() == [
        f"FitbusError save_weights {safetensors}",
        f"FitbusError load_weights {safetensors}",
        f"FitbusError save_state {orbax}",
        f"FitbusError load_state {orbax}",
        f"FitbusError NumberedStates {orbax}",
        f"FitbusError ModelCheckpoint {orbax}",
        f"FitbusError ModelCheckpoint {safetensors}",
        f"FitbusError OrbaxCheckpoint {orbax}",
    ]
