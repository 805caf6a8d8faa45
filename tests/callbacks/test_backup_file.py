"""Numbered files with checksums, and what can be packed into them."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from fitbus.callbacks._backup_file import BackupFiles, Damaged
from fitbus.errors import FitbusError
from fitbus.train._packing import plain, unpacked

from ._damages import DAMAGES
from ._interrupted import names


def replace_by_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def written(directory: Path, count: int, keep: int = 2) -> BackupFiles:
    files = BackupFiles(directory, keep)
    for number in range(count):
        files.write([b"%d" % number, memoryview(b"end")])
    return files


# The files themselves.


@pytest.mark.parametrize(("keep", "left"), [(2, [5, 4]), (3, [5, 4, 3])])
def test_the_newest_are_kept_and_whole(tmp_path: Path, keep: int, left: list[int]) -> None:
    files = written(tmp_path / "new" / "directory", 5, keep)
    assert [path.name for path in files.newest_first()] == [f"backup-{n}" for n in left]
    assert [files.read(path) for path in files.newest_first()] == [b"%dend" % (n - 1) for n in left]


@pytest.mark.parametrize("damage", [*DAMAGES, replace_by_directory, Path.unlink])
def test_a_damaged_one_is_told_from_a_whole_one(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    files = written(tmp_path, 2)
    newest, before = files.newest_first()
    damage(newest)
    with pytest.raises(Damaged):
        files.read(newest)
    assert files.read(before) == b"0end"


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_one_counts_for_none_that_is_kept(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    files = written(tmp_path, 2)
    damage(files.newest_first()[0])
    with pytest.raises(Damaged):
        files.read(files.newest_first()[0])
    files.write([b"next"])
    assert names(tmp_path) == ["backup-1", "backup-3"]


def test_every_byte_counts(tmp_path: Path) -> None:
    """A change of any one of them is noticed."""
    files = written(tmp_path, 1)
    (path,) = files.newest_first()
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        with pytest.raises(Damaged):
            files.read(path)
        path.write_bytes(whole[:place])
        with pytest.raises(Damaged):
            files.read(path)


def test_what_was_left_half_written_is_never_read_and_goes(tmp_path: Path) -> None:
    files = written(tmp_path, 1)
    (tmp_path / ".backup-2.unfinished").write_bytes(b"half")
    assert [path.name for path in files.newest_first()] == ["backup-1"]
    files.clear_unfinished()
    assert names(tmp_path) == ["backup-1"]


def test_a_full_disk_leaves_what_was_there(tmp_path: Path) -> None:
    """The error names the file."""

    def parts() -> Any:
        yield b"a part"
        raise OSError(28, "No space left on device")

    files = written(tmp_path, 1)
    with pytest.raises(OSError, match=r"No space left on device: '.*backup-2'"):
        files.write(parts())
    assert names(tmp_path) == ["backup-1"]
    assert files.read(tmp_path / "backup-1") == b"0end"


# What they can hold.


@pytest.mark.parametrize(
    "value",
    [
        None,
        [True, False, 0, -1, 2**63, 2**64 - 1, 1.5, "text", b"bytes", {}],
        {"a": {"b": [1, (2, (3,))]}, 4: "number as a key"},
        (2**200, -(2**70), 1 + 2j),
        np.random.default_rng(3).bit_generator.state,
        math.inf,
        np.float32(0.1),
    ],
    ids=["None", "plain", "nested", "large and complex", "generator", "infinity", "scalar"],
)
def test_plain_values_come_back_as_they_are(value: Any) -> None:
    back = unpacked(b"".join(plain(value)))
    assert back == value
    assert repr(back) == repr(value)  # the types, too


@pytest.mark.parametrize("dtype", ["bool", "i1", "<u8", ">f4", "f2", "c16", "<U3", "M8[s]", "S2"])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 3), (2, 3)])
def test_arrays_come_back_bit_for_bit(dtype: str, shape: tuple[int, ...]) -> None:
    size = math.prod(shape)
    array = np.arange(size).astype("i1").astype(dtype if dtype != "M8[s]" else "i8")
    array = array.astype(dtype).reshape(shape)
    (back,) = unpacked(b"".join(plain([array[..., ::-1] if shape else array])))
    wanted = array[..., ::-1] if shape else array
    assert (back.dtype, back.shape) == (wanted.dtype, wanted.shape)
    assert back.tobytes() == wanted.tobytes()
    assert back.flags.writeable


@pytest.mark.parametrize("dtype", ["bfloat16", "float8_e4m3fn", "int4"])
def test_arrays_of_machine_learning_come_back_bit_for_bit(dtype: str) -> None:
    array = jnp.arange(6).astype(dtype).reshape(2, 3)
    (back,) = unpacked(b"".join(plain([array])))
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, np.asarray(array))


def test_nan_comes_back() -> None:
    assert math.isnan(unpacked(b"".join(plain(math.nan))))


@pytest.mark.parametrize("value", [object(), {1.5: 2}, {"a": {3}}, np.array([None]), lambda: None])
def test_what_is_neither_plain_nor_an_array_is_refused_naming_the_place(value: Any) -> None:
    with pytest.raises(FitbusError, match=r"can't hold .*, at \['best'\]\[0\]"):
        plain({"best": [value]})


@pytest.mark.parametrize("value", [{2**70: 1}, "\ud800", np.zeros(2, "V8")])
def test_what_could_not_be_read_back_is_refused(value: Any) -> None:
    with pytest.raises(FitbusError, match="can't hold"):
        plain([value])


def test_values_nested_without_end_are_refused() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(FitbusError, match="can't hold"):
        plain(value)


@pytest.mark.parametrize("content", [b"", b"\xff" * 8, bytes(8), b"".join(plain([1]))[:-1]])
def test_what_is_no_backups_content_is_named(content: bytes) -> None:
    with pytest.raises(FitbusError, match="isn't a backup's content"):
        unpacked(content)
