"""Bytes from where they lie: one file a backend, each a `Store`.

First in the flow.  Invariant: a backend knows names and byte ranges, never formats.
"""

from iopipe.storage.direct import DirectStore
from iopipe.storage.mapped import MappedStore
from iopipe.storage.memory import MemoryStore
from iopipe.storage.open import open_store
from iopipe.storage.posix import PosixStore
from iopipe.storage.uring import UringStore

__all__ = ["DirectStore", "MappedStore", "MemoryStore", "PosixStore", "UringStore", "open_store"]
