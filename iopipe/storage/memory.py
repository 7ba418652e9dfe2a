"""Objects in the memory of this process, for tests, demos and small sets made on the fly.

Stands where `storage.posix` stands, with the same contract and nothing to wait for.
Invariant: what was written is copied, so that no later change of the writer shows.
"""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Sequence

from iopipe.errors import NotFoundError, StorageError
from iopipe.protocols import ReadRequest, Reads
from iopipe.storage.patterns import matches


class MemoryStore:
    """A `Store` of `memory://name/...` paths; an object's path is the word it was written under.

    A pickled store takes a copy of its objects along.
    """

    def __init__(self) -> None:
        self._objects: dict[str, bytes] = {}

    def write(self, path: str, data: bytes | bytearray | memoryview) -> None:
        """Put `data` under `path`, in place of what was there; reads under way see the old."""
        self._objects[path] = bytes(data)

    def delete(self, path: str) -> None:
        if self._objects.pop(path, None) is None:
            raise _not_found(path)

    def size(self, path: str) -> int:
        return len(self._object(path))

    def version(self, path: str) -> str:
        """The size and a digest of the content; takes about 1 ns a byte."""
        data = self._object(path)
        return f"{len(data)}-{hashlib.blake2b(data, digest_size=8).hexdigest()}"

    def glob(self, pattern: str) -> list[str]:
        """As `glob.glob` with `recursive=True`: `*` stops at `/`, hidden names stay hidden."""
        return sorted(path for path in list(self._objects) if matches(path, pattern))

    def local_path(self, path: str) -> None:
        return None

    def read_into(self, path: str, offset: int, buffer: memoryview) -> int:
        if offset < 0:
            raise StorageError(f"cannot read {path!r} at offset {offset}: give 0 or more")
        part = memoryview(self._object(path))[offset : offset + len(buffer)]
        buffer[: len(part)] = part
        return len(part)

    def view(self, path: str) -> memoryview:
        return memoryview(self._object(path))

    def submit(self, requests: Sequence[ReadRequest]) -> Reads:
        return _DoneReads([self._attempt(request) for request in requests])

    def describe(self) -> str:
        return f"memory: {len(self._objects)} objects of this process"

    def close(self) -> None:
        """Nothing: the objects stay, since others may share the store."""

    def _attempt(self, request: ReadRequest) -> int | StorageError:
        try:
            return self.read_into(request.path, request.offset, request.buffer)
        except StorageError as error:
            return error

    def _object(self, path: str) -> bytes:
        data = self._objects.get(path)
        if data is None:
            raise self._why_missing(path)
        return data

    def _why_missing(self, path: str) -> StorageError:
        if any(name.startswith(posixpath.join(path, "")) for name in list(self._objects)):
            return StorageError(f"cannot read {path!r}: it is a folder; give the path of an object")
        return _not_found(path)


class _DoneReads:
    def __init__(self, results: list[int | StorageError]) -> None:
        self._results = results

    def wait(self) -> list[int]:
        for result in self._results:
            if isinstance(result, StorageError):
                raise result
        return [result for result in self._results if isinstance(result, int)]


def _not_found(path: str) -> NotFoundError:
    return NotFoundError(f"cannot find {path!r} in this memory store; write it first")
