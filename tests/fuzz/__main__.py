"""Fuzzes the decoders, led by the coverage of their code.

    python -m tests.fuzz TARGET --seconds 60

The targets are those of `_targets.py`, or `all` of them, one after the other. An input that breaks
one is written to the working directory, or to `--crashes`, and `python -m tests.fuzz TARGET FILE`
tries it again, without the fuzzer. With `--corpus DIRECTORY` what was found is kept and gone on
from.

The fuzzer is Atheris, in the extra `dev`; it has wheels for Linux on x86-64 only. For other
systems: https://github.com/google/atheris.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

NAMES = ("json", "msgpack", "journal", "frame", "backup", "packed")


def main() -> int:
    """Runs it; returns the exit status."""
    options = _parser().parse_args()
    if options.files:
        from ._targets import TARGETS

        for file in options.files:
            TARGETS[options.target].check(Path(file).read_bytes())
            sys.stdout.write(f"{file}: good\n")
        return 0
    for name in NAMES if options.target == "all" else (options.target,):
        sys.stdout.write(f"== {name}\n")
        sys.stdout.flush()
        if status := _fuzzed(name, options):
            return status
    return 0


def _fuzzed(name: str, options: argparse.Namespace) -> int:
    """Fuzzes a target in a process of its own, which the fuzzer ends as it likes."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        corpus = Path(options.corpus or folder, name)
        corpus.mkdir(parents=True, exist_ok=True)
        words = [sys.executable, "-m", "tests.fuzz._fuzzer", name, str(options.seconds)]
        places = [str(corpus), options.crashes]
        done = subprocess.run([*words, *places], env={**os.environ, "TMPDIR": folder}, check=False)
    return done.returncode


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz", description="Fuzzes the decoders, led by coverage."
    )
    parser.add_argument("target", choices=[*NAMES, "all"])
    parser.add_argument("files", nargs="*", help="inputs to be tried again, without the fuzzer")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--corpus", help="a directory for what was found, to go on from")
    parser.add_argument("--crashes", default=".", help="a directory for inputs that break one")
    return parser


if __name__ == "__main__":
    sys.exit(main())
