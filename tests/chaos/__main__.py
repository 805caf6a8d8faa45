"""Replays trainings at random, as `_chaos.py` says."""

from __future__ import annotations

import logging
import sys
import warnings

from ._chaos import replay

if __name__ == "__main__":
    logging.getLogger("fitbus").addHandler(logging.NullHandler())
    warnings.simplefilter("error")
    for seed in range(int(sys.argv[1]), int(sys.argv[-1]) + 1):
        replay(seed)
        sys.stdout.write(f"seed {seed}: good\n")
