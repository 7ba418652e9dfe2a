"""Picks the backend that serves a URL.

Stands between the URLs of a source and its store.
"""

from __future__ import annotations

import re
from functools import cache

from iopipe.errors import StorageError
from iopipe.protocols import Store
from iopipe.storage.memory import MemoryStore
from iopipe.storage.posix import PosixStore

_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]+)://")


def open_store(url: str) -> Store:
    """A store that can read `url`: a plain path, `file://...`, or `memory://...`.

    File stores are new and closed by the caller; all `memory://` URLs of a process share
    one store.
    """
    match = _SCHEME.match(url)
    scheme = match.group(1).lower() if match else "file"
    if scheme == "file":
        return PosixStore()
    if scheme == "memory":
        return _process_memory()
    raise StorageError(
        f"no backend reads {scheme}:// URLs; use a path, file:// or memory://, or pass store="
    )


@cache
def _process_memory() -> MemoryStore:
    return MemoryStore()
