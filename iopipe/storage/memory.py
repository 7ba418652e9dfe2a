"""Objects in memory: for tests, examples and small data.

A backend of `Store`.  Invariant: an object is replaced as a whole, so a reader sees one
version of it, never a mix.
"""

from __future__ import annotations

import fnmatch
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from iopipe.errors import NotFoundError, StorageError
from iopipe.protocols import ReadRequest, Reads


@dataclass(frozen=True, slots=True)
class _Object:
    content: bytes
    version: str


class MemoryStore:
    """Named bytes; names are whatever the caller uses, `memory://...` by custom."""

    def __init__(self) -> None:
        self._objects: dict[str, _Object] = {}
        self._versions = itertools.count()

    def write(self, path: str, content: bytes) -> None:
        """Put `content` at `path`, in place of what was there."""
        self._objects[path] = _Object(bytes(content), f"{next(self._versions)}")

    def delete(self, path: str) -> None:
        self._find(path)
        del self._objects[path]

    def size(self, path: str) -> int:
        return len(self._find(path).content)

    def version(self, path: str) -> str:
        return self._find(path).version

    def glob(self, pattern: str) -> list[str]:
        return sorted(path for path in self._objects if fnmatch.fnmatchcase(path, pattern))

    def local_path(self, path: str) -> str | None:
        return None

    def read_into(self, path: str, offset: int, buffer: memoryview) -> int:
        if offset < 0:
            raise StorageError(f"offset {offset} of {path!r} is negative; give one >= 0")
        part = self._find(path).content[offset : offset + len(buffer)]
        buffer[: len(part)] = part
        return len(part)

    def submit(self, requests: Sequence[ReadRequest]) -> Reads:
        return _Done([self.read_into(r.path, r.offset, r.buffer) for r in requests])

    def describe(self) -> str:
        return "memory: bytes of this process"

    def close(self) -> None:
        """Nothing to give back; the objects stay."""

    def _find(self, path: str) -> _Object:
        try:
            return self._objects[path]
        except KeyError:
            raise NotFoundError(
                2, "no such object in this memory store; write it first", path
            ) from None


@dataclass(frozen=True, slots=True)
class _Done:
    counts: list[int]

    def wait(self) -> list[int]:
        return self.counts
