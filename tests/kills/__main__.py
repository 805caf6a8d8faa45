"""Kills trainings, as `_kills.py` says."""

from __future__ import annotations

import argparse
import sys

from ._kills import kill

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.kills")
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    sys.stdout.write(f"seed {given.seed}\n")
    kill(given.seed, given.kills, {}, lambda text: sys.stdout.write(f"{text}\n"))
