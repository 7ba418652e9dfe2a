"""An object of a store as a file that can be read and sought.

Stands between a store and libraries that want a file.  Invariant: it reads what it is asked
for and nothing ahead.
"""

from __future__ import annotations

import io
from typing import Any

from iopipe.protocols import Store


class StoreFile(io.RawIOBase):
    """Read-only; not thread-safe, as files are not."""

    def __init__(self, store: Store, path: str) -> None:
        self._store = store
        self._path = path
        self._place = 0
        self._size = store.size(path)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        self._place = max(0, base + offset)
        return self._place

    def readinto(self, buffer: Any) -> int:
        num_read = self._store.read_into(self._path, self._place, memoryview(buffer).cast("B"))
        self._place += num_read
        return num_read
