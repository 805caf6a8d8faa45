"""`python -m fitbus bench`: what it measures, prints, and says of mistakes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fitbus.__main__ import main

QUICK = ["--step-ms", "0.2", "--pairs", "1", "--train-s", "0.01"]

MODULE = """
from __future__ import annotations

import fitbus
from fitbus.callbacks import Callback, EarlyStopping

LIMIT = 3


class Counts(Callback):
    def on_train_batch_end(self, batch, logs=None):
        pass


class Needs(Callback):
    def __init__(self, monitor):
        self.monitor = monitor


class Plain:
    pass


async def report(event: fitbus.BatchEnd) -> None: ...


@fitbus.handler(fitbus.EpochEnd)
def epochs(event) -> None:
    print("an epoch ended")


def untold(event): ...


def several():
    return [Counts(), report, [epochs]]


def wrong():
    return [Counts]


def fails(event: fitbus.BatchEnd) -> None:
    raise RuntimeError("the disk is full")


def refused():
    return [EarlyStopping("nothing")]


counts = Counts()
both = [counts, report]
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of the user's with a module; what is imported there is forgotten again."""
    (tmp_path / "mine.py").write_text(MODULE)
    (tmp_path / "broken.py").write_text("import no_such_library\n")
    monkeypatch.chdir(tmp_path)
    path, modules = [*sys.path], {*sys.modules}
    yield tmp_path
    sys.path[:] = path
    for name in ("mine", "broken"):
        if name not in modules:
            sys.modules.pop(name, None)


@pytest.mark.slow  # a fresh process
def test_a_newcomer_gets_a_table_and_how_to_read_it(folder: Path) -> None:
    """In a process of their own; what callbacks print isn't in it, but on the standard error."""
    command = [sys.executable, "-m", "fitbus", "bench", "mine:Counts", "mine:epochs", *QUICK]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    title, _, head, row, _, head_2, *entries, _, note, note_2 = done.stdout.splitlines()
    assert re.match(r"mine:Counts, mine:epochs \(asyncio, .+, Python .+, jax .+, 1 pairs\)$", title)
    assert re.split(r"  +", head) == [
        *("a step of", "takes", "they add", "ratio", "and to an epoch", "and once"),
    ]
    number = r"[+-]?[\d.,]+"
    spread = rf"{number}( \S+)? \[{number}, {number}\]"
    assert re.match(rf"0.2 ms +{number} ms +{spread} +{spread} +{spread} +{spread}$", row)
    assert re.split(r"  +", head_2)[2:] == ["events", "lost", "in handler", "training waited"]
    assert [re.split(r"  +", entry)[:2] for entry in entries] == [
        ["Counts", "0.2 ms"],
        ["epochs", "0.2 ms"],
    ]
    assert "noise" in note + note_2
    assert set(done.stderr.splitlines()) == {"an epoch ended"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spec", "names"),
    [
        ("mine:Counts", ["Counts"]),
        ("mine:counts", ["Counts"]),
        ("mine:report", ["report"]),
        ("mine:several", ["Counts", "report", "epochs"]),
        ("mine:both", ["Counts", "report"]),
        ("./mine.py:epochs", ["epochs"]),
        ("fitbus.callbacks:EarlyStopping", ["EarlyStopping"]),
    ],
)
def test_each_way_to_name_callbacks_is_understood(
    spec: str, names: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", spec, "--json", *QUICK]) == 0
    (line,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert line["name"] == spec
    assert [entry["name"] for entry in line["subscribers"]] == names
    assert all(entry["delivered"] > 0 for entry in line["subscribers"])


@pytest.mark.slow
@pytest.mark.parametrize("loop", ["asyncio", "uvloop", "trio"])
def test_each_measures_one_by_one_on_the_loop_that_is_asked_for(
    loop: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["mine:Counts", "mine:report", "--each", "--json", "--loop", loop, *QUICK]
    assert main(["bench", *given]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["name"], line["loop"]) for line in lines] == [
        ("mine:Counts", loop),
        ("mine:report", loop),
    ]
    assert [len(line["subscribers"]) for line in lines] == [1, 1]


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("mine", "'mine' names no object; write MODULE:NAME, or path/to/file.py:NAME"),
        (".mine:Counts", "'.mine:Counts' names no object; write MODULE:NAME"),
        ("mine:", "'mine:' names no object"),
        ("nothing:Counts", "there is no module 'nothing' on the path or in "),
        ("mine.deeper:Counts", "there is no module 'mine.deeper' on the path or in "),
        ("no/such.py:Counts", "there is no file "),
        ("mine:Count", "mine has no 'Count'; it has Counts, Needs, Plain, report, epochs"),
        ("mine:Needs", "Needs can't be made without arguments (missing a required argument:"),
        ("mine:Needs", "name a function that returns one, such as `def mine(): return Needs(...)`"),
        ("mine:Plain", "'mine:Plain' is a class of neither callbacks nor handlers"),
        ("fitbus:BatchEnd", "is an event type; name a function that takes one"),
        ("mine:LIMIT", "'mine:LIMIT' is int 3; name a callback, a handler, or a function or list"),
        ("mine:untold", "'mine:untold' can't be a handler: the event types can't be told from the"),
        ("mine:refused", "EarlyStopping.monitor: found 'nothing'; the logs will have ['accuracy',"),
        ("mine:wrong", "'mine:wrong' gives the class Counts; give an object of it"),
    ],
)
def test_a_mistake_is_told_in_one_sentence(
    spec: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", spec, *QUICK]) == 2
    out, error = capsys.readouterr()
    assert out == ""
    (line,) = error.splitlines()
    assert line.startswith("python -m fitbus bench: ")
    assert says in line


@pytest.mark.parametrize(
    ("option", "says"),
    [
        (["--step-ms", "1,0"], "--step-ms: '0' is no number above 0"),
        (["--step-ms", "fast"], "--step-ms: 'fast' is no number above 0"),
        (["--pairs", "0"], "--pairs: '0' is no whole number of at least 1"),
        (["--train-s", "inf"], "--train-s: 'inf' is no number above 0"),
        (["--loop", "curio"], "--loop: invalid choice: 'curio'"),
    ],
)
def test_a_wrong_option_is_refused_before_anything_is_imported(
    option: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["bench", "broken:Counts", *option])
    assert ended.value.code == 2
    assert says in capsys.readouterr().err


def test_what_a_module_itself_lacks_is_its_own_error() -> None:
    """Not a mistake in the name of the module: its traceback says where."""
    with pytest.raises(ModuleNotFoundError, match="no_such_library"):
        main(["bench", "broken:Counts", *QUICK])


def test_a_failing_callback_raises_its_own_error() -> None:
    with pytest.raises(RuntimeError, match="the disk is full"):
        main(["bench", "mine:fails", *QUICK])


@pytest.mark.slow  # a fresh process
def test_a_failing_callback_shows_its_traceback(folder: Path) -> None:
    command = [sys.executable, "-m", "fitbus", "bench", "mine.py:fails", *QUICK]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert f'File "{folder / "mine.py"}", line' in done.stderr
    *_, error, note = done.stderr.splitlines()
    assert error == "RuntimeError: the disk is full"
    assert note.startswith("fitbus: fails raised RuntimeError")
