"""Backends that read byte ranges of named objects; one file each."""

from iopipe.storage.memory import MemoryStore as MemoryStore
from iopipe.storage.open import open_store as open_store
from iopipe.storage.posix import PosixStore as PosixStore
