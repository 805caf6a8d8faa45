"""The command line: `python -m fitbus`."""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Iterator, Sequence
from importlib import resources

__all__ = ["main"]

_COMMANDS = {
    "bench": "measures what a callback of yours adds to a step: bench module:Callback",
    "demo": "trains on real handwritten digits, watched and steered (--quick: shorter)",
    "journal": "lists, filters and exports what a run wrote: journal PATH --controls",
    "send": "steers a run of a service: send URL set-learning-rate 0.001",
    "serve": "serves trainings of yours, with a page and an API: serve module:factories",
    "watch": "shows a run of a service until its end: watch URL",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command, or says which there are; returns the exit status."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    if given[:1] == ["demo"]:
        from fitbus.examples import demo

        return demo.main(given[1:])
    if given[:1] == ["bench"]:
        from fitbus import _bench

        return _bench.main(given[1:])
    if given[:1] == ["journal"]:
        from fitbus import _journal_command

        return _journal_command.main(given[1:])
    if given[:1] == ["serve"]:
        from fitbus import _serve_command

        return _serve_command.main(given[1:])
    if given[:1] in (["watch"], ["send"]):
        return _from_elsewhere(given[0], given[1:])
    parser = argparse.ArgumentParser(
        prog="python -m fitbus",
        description="An event-driven async callback bus for JAX training.",
        epilog=_contents(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", nargs="?", choices=[*_COMMANDS], help="what to run")
    parser.parse_args(given)
    parser.print_help()
    return 0


def _from_elsewhere(command: str, arguments: Sequence[str]) -> int:
    """Watches or steers a run of a service; needs neither JAX nor what serves."""
    try:
        from fitbus import _remote_commands
    except ModuleNotFoundError as error:
        print(f"fitbus {command}: {error}; pip install 'fitbus[client]'", file=sys.stderr)
        return 2
    return (
        _remote_commands.watch(arguments)
        if command == "watch"
        else _remote_commands.send(arguments)
    )


def _contents() -> str:
    lines = [
        "commands:",
        *(f"  {name:8} {text}" for name, text in _COMMANDS.items()),
        "",
        "examples, each run by `python -m fitbus.examples.NAME`:",
    ]
    found = dict(_examples())
    width = max(map(len, found), default=0)
    return "\n".join([*lines, *(f"  {name:{width}}  {text}" for name, text in found.items())])


def _examples() -> Iterator[tuple[str, str]]:
    """The names of the examples, with the first lines of their docstrings; none is imported."""
    for file in sorted(resources.files("fitbus.examples").iterdir(), key=lambda f: f.name):
        name = file.name.removesuffix(".py")
        if file.name.endswith(".py") and not name.startswith("_"):
            text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
            yield name, text.partition("\n")[0]


if __name__ == "__main__":
    sys.exit(main())
