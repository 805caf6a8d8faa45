"""A run of a service, watched and steered from another process; without JAX."""

from fitbus.client._connecting import connect
from fitbus.client._remote import RemoteRun

__all__ = ["RemoteRun", "connect"]
