"""The journal: every event of a run on disk, in segments of checked frames; read without JAX.

`fitbus.callbacks.Journal` writes it during a run, and `python -m fitbus journal` lists it.

A journal is a directory of segments, `000001.journal` and so on. Each begins with eight bytes of
magic and a version (uint32); then come frames: the length of the payload, its CRC-32, the CRC-32 of
these eight bytes (three uint32, little-endian), and the payload, one event as `Codec.to_msgpack`
encodes it.
"""

from fitbus.journal._reading import check_events, events_of, read
from fitbus.journal._writing import JournalWriter

__all__ = ["JournalWriter", "check_events", "events_of", "read"]
