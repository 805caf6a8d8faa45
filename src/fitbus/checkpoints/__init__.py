"""Weights and whole states on disk: written atomically, checked when they are read.

`save_weights` and `load_weights` keep any pytree of arrays as one safetensors file, which other
tools read too; `save_state` and `load_state` keep a whole `TrainState` as a directory of Orbax';
`NumberedStates` reads, and keeps, several of those under numbers, as `OrbaxCheckpoint` does.
All need the extra `checkpoint`. What is saved repeatedly can be copied in one thread, with
`named_arrays`, and written in another, with `write_weights` and `write_state`.
"""

from fitbus.checkpoints._disk import delete_checkpoint
from fitbus.checkpoints._extra import check_installed
from fitbus.checkpoints._named import named_arrays
from fitbus.checkpoints._numbered import NumberedStates
from fitbus.checkpoints._state import load_state, save_state, write_state
from fitbus.checkpoints._weights import load_weights, save_weights, write_weights

__all__ = [
    "NumberedStates",
    "check_installed",
    "delete_checkpoint",
    "load_state",
    "load_weights",
    "named_arrays",
    "save_state",
    "save_weights",
    "write_state",
    "write_weights",
]
