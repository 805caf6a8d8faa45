"""How Orbax is used, and how what it writes is checked."""

from __future__ import annotations

import json
import threading
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from fitbus._files import sync
from fitbus.checkpoints._named import Array, put_back, without_elements
from fitbus.errors import FitbusError, InvalidArgumentError

__all__ = [
    "MARK",
    "apart",
    "check_replaceable",
    "is_sealed",
    "may_be_whole",
    "nested",
    "put_back_read",
    "seal",
]

MARK = "_CHECKPOINT_METADATA"  # Orbax' own file in each of its checkpoints

SEAL = "_FITBUS_CRC32"

R = TypeVar("R")
T = TypeVar("T")


def apart(work: Callable[[], R]) -> R:
    """Does work in a thread of its own, and waits for it.

    Orbax runs event loops, and patches asyncio where one runs already; and some of its versions
    leave marks on the thread that AnyIO's worker threads need.
    """
    result: list[R] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            result.append(work())
        except BaseException as error:  # noqa: BLE001  # raised by who waits
            errors.append(error)

    thread = threading.Thread(target=run, name="fitbus checkpoint", daemon=True)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return result[0]


def nested(named: Mapping[str, Array]) -> dict[str, Any]:
    """Dictionaries in dictionaries, as Orbax' users expect; no name lies in another.

    Leaves without an element are left out: Orbax refuses them.
    """
    tree: dict[str, Any] = {}
    for name, array in named.items():
        if not array.size:
            continue
        *outer, last = name.split(".")
        place = tree
        for part in outer:
            place = place.setdefault(part, {})
        place[last] = array
    return tree


def check_replaceable(argument: str, path: Path) -> None:
    """Refuses to replace anything but a checkpoint."""
    if path.is_dir():
        if any(path.iterdir()) and not (path / MARK).exists():
            raise InvalidArgumentError(
                argument,
                str(path),
                "it is a directory with something else in it, which isn't replaced; give a path of"
                " its own",
            )
    elif path.exists():
        raise InvalidArgumentError(
            argument, str(path), "it is a file; a whole state is a directory: give another path"
        )


def seal(directory: Path) -> None:
    """Brings a directory to the disk, and then a file that says what is in its files.

    Orbax itself reads some damaged ones, and leaves threads behind at others. The file is there
    whole or not at all: whoever is killed meanwhile leaves a directory without it.
    """
    files = {str(file.relative_to(directory)): _sum(file) for file in _files(directory)}
    for path in [*directory.rglob("*"), directory]:
        sync(path)
    temporary = directory / f"{SEAL}.tmp"
    temporary.write_text(json.dumps(files, indent=0))
    sync(temporary)
    temporary.replace(directory / SEAL)
    sync(directory)


def is_sealed(directory: Path, *, thoroughly: bool) -> bool:
    """Whether a directory has what its seal says.

    Args:
        directory: The checkpoint.
        thoroughly: Whether the bytes are compared, and not only how many there are.
    """
    try:
        if thoroughly:
            _check_seal(directory)
        else:
            files: dict[str, list[int]] = json.loads((directory / SEAL).read_text())
            return all((directory / name).stat().st_size == n for name, (n, _) in files.items())
    except (OSError, ValueError, TypeError, AttributeError):  # no JSON, or of another kind
        return False
    return (directory / SEAL).exists()


def may_be_whole(directory: Path) -> bool:
    """Whether a directory has nothing that contradicts its seal; what Orbax alone wrote has none.

    Looks at names and sizes only.
    """
    return not (directory / SEAL).exists() or is_sealed(directory, thoroughly=False)


def put_back_read(like: T, directory: Path, read: Callable[[Path], Any]) -> T:
    """Reads a checkpoint, checks it, and makes a tree of it.

    Args:
        like: As of `put_back`.
        directory: The checkpoint.
        read: Reads it, to nested dictionaries of arrays.

    Raises:
        InvalidArgumentError: As of `put_back`.
        FitbusError: It is damaged.
    """
    try:
        _check_seal(directory)
        named = dict(_flat(apart(lambda: read(directory))))
    except Exception as error:
        raise FitbusError(
            f"{directory} couldn't be read: it is truncated, corrupted, or no checkpoint of a"
            f" state ({type(error).__name__}: {error}); take another one"
        ) from error
    return put_back(like, {**without_elements(like), **named}, directory)


def _check_seal(directory: Path) -> None:
    sealed = directory / SEAL
    if not sealed.exists():
        return  # written by Orbax alone
    files: dict[str, list[int]] = json.loads(sealed.read_text())
    for name, written in files.items():
        if _sum(directory / name) != written:
            raise ValueError(f"{name} isn't what was written")


def _files(directory: Path) -> list[Path]:
    own = {SEAL, f"{SEAL}.tmp"}
    return sorted(p for p in directory.rglob("*") if p.is_file() and p.name not in own)


def _sum(file: Path) -> list[int]:
    """The size of a file, and a checksum of its bytes."""
    size = checksum = 0
    with file.open("rb") as stream:
        while block := stream.read(2**20):
            size += len(block)
            checksum = zlib.crc32(block, checksum)
    return [size, checksum]


def _flat(tree: Any, path: tuple[str, ...] = ()) -> list[tuple[str, Array]]:
    """The opposite of `nested`; also of what others wrote, with lists."""
    if isinstance(tree, dict | list | tuple):
        items = tree.items() if isinstance(tree, dict) else enumerate(tree)
        return [leaf for key, part in items for leaf in _flat(part, (*path, str(key)))]
    return [] if tree is None else [(".".join(path), tree)]
