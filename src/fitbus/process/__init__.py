"""Training in a child process, behind the same handle; this side of it imports no JAX."""

from fitbus.process._factory import name_of_factory
from fitbus.process._run import ProcessRun
from fitbus.process._snapshot import Snapshot

__all__ = ["ProcessRun", "Snapshot", "name_of_factory"]
