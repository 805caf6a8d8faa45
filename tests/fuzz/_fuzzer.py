"""Has one target fuzzed in this process, until it is ended. `__main__.py` starts it."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

from ._mutants import OPERATION_BYTES, PIECES, TEXTS, mutants

INSTRUMENTED = [
    *("fitbus.events", "fitbus.control", "fitbus.journal", "fitbus._checks", "fitbus._fields"),
    *("fitbus._message", "fitbus.train._packing", "fitbus.callbacks._backup_file"),
]


def fuzz(name: str, seconds: str, corpus: Path, crashes: str) -> None:
    """Ends the process, at a mistake not with 0."""
    try:
        import atheris
    except ImportError:
        sys.exit("python -m tests.fuzz: the fuzzer is missing; pip install atheris")
    library: Any = atheris  # it has no types
    with library.instrument_imports(include=INSTRUMENTED):
        from ._targets import TARGETS
    target = TARGETS[name]

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        """By the fuzzer, or as one who knows what the bytes mean."""
        chance = random.Random(seed)  # noqa: S311  # no secret
        if chance.random() < 0.5:
            return bytes(library.Mutate(data, most))
        program = chance.randbytes(OPERATION_BYTES)
        (mutant,) = mutants([data, *target.seeds], 0, program, is_text=target.is_text)
        return mutant[:most]

    for number, seed in enumerate(target.seeds):
        (corpus / f"seed-{number}").write_bytes(seed)
    words = corpus / "words.dictionary"
    pieces = [piece for piece in (TEXTS if target.is_text else PIECES) if len(piece) <= 64]
    words.write_text("".join(f'"{_escaped(piece)}"\n' for piece in pieces))
    limits = [f"-max_total_time={seconds}", "-max_len=8192", "-timeout=10", "-rss_limit_mb=2048"]
    told = ["-reduce_inputs=0", "-print_final_stats=1", f"-artifact_prefix={crashes}/"]
    library.Setup(
        [sys.argv[0], *limits, *told, f"-dict={words}", str(corpus)],
        target.check,
        custom_mutator=mutate,
    )
    library.Fuzz()


def _escaped(piece: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in piece)


if __name__ == "__main__":
    name, seconds, corpus, crashes = sys.argv[1:]
    fuzz(name, seconds, Path(corpus), crashes)
