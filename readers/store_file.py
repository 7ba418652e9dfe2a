"""An object of a store as a file that can be read and sought.

Stands between a store and libraries that want a file.  Invariant: it reads what it is asked
for and nothing ahead.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from iopipe.protocols import ReadRequest, Store


class StoreFile(io.RawIOBase):
    """Read-only; not thread-safe, as files are not."""

    def __init__(self, store: Store, path: str) -> None:
        self._store = store
        self._path = path
        self._place = 0
        self._size = store.size(path)
        self._held: list[tuple[int, memoryview]] = []

    def hold(self, parts: Sequence[tuple[int, int]]) -> None:
        """Read these parts (offset, length) now, all at once: later reads within one of them
        are served from memory."""
        buffers = [(offset, memoryview(bytearray(length))) for offset, length in parts]
        requests = [ReadRequest(self._path, offset, buffer) for offset, buffer in buffers]
        counts = self._store.submit(requests).wait()
        self._held = [(o, buffer[:n]) for (o, buffer), n in zip(buffers, counts, strict=True)]

    def at(self, offset: int, length: int) -> bytes:
        """These bytes, fewer only where the file ends."""
        buffer = bytearray(length)
        return bytes(buffer[: self._read(offset, memoryview(buffer))])

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
        num_read = self._read(self._place, memoryview(buffer).cast("B"))
        self._place += num_read
        return num_read

    def _read(self, offset: int, buffer: memoryview) -> int:
        for start, part in self._held:
            if start <= offset and offset + len(buffer) <= start + len(part):
                buffer[:] = part[offset - start : offset - start + len(buffer)]
                return len(buffer)
        return self._store.read_into(self._path, offset, buffer)
