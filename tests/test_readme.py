"""The README keeps its word: its programs print what it shows, its commands and names exist."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import io
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import fitbus

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "README.md").read_text(encoding="utf-8")
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A fenced block, and the block of text that follows it at once, where there is one."""

    line: int
    language: str
    text: str
    output: str


def _blocks() -> list[Block]:
    found = list(FENCE.finditer(PAGE))
    blocks: list[Block] = []
    for block, after in zip(found, [*found[1:], None], strict=True):
        follows = after is not None and not PAGE[block.end() : after.start()].strip()
        output = after[3] if after is not None and follows and after[2] == "text" else ""
        line = PAGE.count("\n", 0, block.start(3)) + 1
        blocks.append(Block(line, block[2], block[3], output))
    return blocks


def _commands() -> list[list[str]]:
    lines = [line for b in BLOCKS if b.language == "sh" for line in b.text.splitlines()]
    parts = [part for line in lines for part in line.split("&&")]
    return [words for part in parts if (words := shlex.split(part, comments=True))]


BLOCKS = _blocks()
PROGRAMS = [block for block in BLOCKS if block.language == "python"]
COMMANDS = _commands()
PROSE = FENCE.sub("", PAGE)


def test_every_block_is_of_a_kind_that_is_checked() -> None:
    """A block of another language, or without one, would be run by nobody."""
    assert {block.language for block in BLOCKS} == {"python", "text", "sh"}


@functools.cache
def _printed() -> dict[int, str]:
    """What each program prints, by its line: they go on from each other, in one namespace."""
    outputs: dict[int, str] = {}
    namespace: dict[str, Any] = {"__name__": "readme"}
    for block in PROGRAMS:
        # Empty lines in front, so that a traceback names the line in the README.
        code = compile("\n" * (block.line - 1) + block.text, "README.md", "exec")
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(code, namespace)  # noqa: S102  # the README's own programs
        outputs[block.line] = out.getvalue()
    return outputs


@pytest.mark.slow  # the first one runs them all
@pytest.mark.parametrize("block", PROGRAMS, ids=lambda block: f"line_{block.line}")
def test_a_program_prints_what_is_shown_below_it(block: Block) -> None:
    """And nothing at all, if nothing is shown."""
    assert _printed()[block.line] == block.output


def test_the_first_program_is_complete_in_twenty_lines() -> None:
    assert BLOCKS[2] is PROGRAMS[0]
    assert len(PROGRAMS[0].text.splitlines()) <= 20
    assert BLOCKS[2].output


def test_the_first_two_commands_install_what_they_then_run() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    for block, extra, run in ((BLOCKS[0], "demo", "fitbus demo"), (BLOCKS[1], "test", "pytest")):
        assert extra in extras
        assert block.text == (
            f'python3 -m venv .venv && .venv/bin/pip install -e ".[{extra}]"'
            f" && .venv/bin/python -m {run}\n"
        )


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_command_runs_what_exists(command: list[str]) -> None:
    """Modules can be found and run, files are there, extras are declared."""
    match command:
        case ["python" | "python3" | ".venv/bin/python", "-m", module, *arguments]:
            spec = importlib.util.find_spec(module)
            assert spec is not None
            if spec.submodule_search_locations:
                assert importlib.util.find_spec(f"{module}.__main__") is not None
            if module == "fitbus":
                if arguments[0] in ("bench", "send", "serve", "watch"):
                    return  # of what the reader has; these commands have tests of their own
                example = arguments[0]
                assert importlib.util.find_spec(f"fitbus.examples.{example}") is not None
        case ["python", file]:
            assert (ROOT / file).is_file()
        case [".venv/bin/pip", "install", "-e", what]:
            assert re.fullmatch(r"\.\[\w+\]", what)
        case ["curl", *_]:
            return  # tests/service/test_readme_service.py
        case _:
            pytest.fail(f"nobody checks {command}")


@pytest.mark.parametrize("name", sorted(set(re.findall(r"\bfitbus((?:\.[A-Za-z]\w*)+)", PAGE))))
def test_a_name_of_the_package_resolves(name: str) -> None:
    parts = name.removeprefix(".").split(".")
    if parts[0] == "examples":  # a command of a block above
        assert importlib.util.find_spec(f"fitbus{name}") is not None
        return
    if parts == ["audit"]:  # a logger
        return
    found: object = fitbus
    for part in parts:
        found = getattr(found, part)


def test_an_upper_case_name_in_code_of_the_prose_is_public() -> None:
    """`EpochEnd`, `StopTraining("why")`: each is Keras' word, or one that can be imported."""
    public = {*fitbus.__all__, *fitbus.callbacks.__all__, *fitbus.errors.__all__}
    public |= {*fitbus.keras.__all__}
    others = {"KeyboardInterrupt", "SystemExit", "RMSprop", "CallbackList", "Freeze"}
    codes = re.findall(r"`([^`]+)`", PROSE)
    used = {name for code in codes for name in re.findall(r"(?<![\w.\"/])[A-Z][a-z]\w+", code)}
    assert {"StopTraining", "EpochEnd", "WouldDeadlockError", "EarlyStopping"} <= used
    assert used - others - {"False", "True", "None"} <= public


def test_links_within_the_page_and_the_repository_lead_somewhere() -> None:
    headings = re.findall(r"^#+ (.*)$", PROSE, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
    links = [link for link in re.findall(r"\]\(([^)]+)\)", PROSE) if "://" not in link]
    assert links
    for link in links:
        file, _, anchor = link.partition("#")
        assert not file or (ROOT / file).exists()
        assert not anchor or anchor in anchors
