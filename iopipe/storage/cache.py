"""A cache on a local disk in front of a remote store, shared by all processes of a machine.

Stands between a store of objects and those who read from it.  Invariant: what it hands out is
what the store below gave for one version of the object, compared with a checksum since it lay on
the disk; where the disk fails, the bytes come from the store below, and that is said once.

Objects are kept in aligned blocks, not whole: a few samples of a large shard cost the blocks that
hold them, reads begin before a shard is complete, and what is evicted is what was not used.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from iopipe.errors import PipelineError, StorageError
from iopipe.protocols import ByteRange, ReadRequest, Reads, Store
from iopipe.storage.answers import shown
from iopipe.storage.cache_folder import CacheFolder
from iopipe.storage.cache_reads import Block, CachedReads, Part
from iopipe.storage.threads import ReadThreads

_log = logging.getLogger(__name__)
_PATIENCE_SECONDS = 60.0
"""Who fills a block for so long is stopped or hangs: others read it past the cache then."""
_RETRY_DISK_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class _Known:
    """An object as it was first seen."""

    size: int
    version: str
    name: str
    """What its blocks are called, without their number."""


class CachedStore:
    """A `Store` over `store`, which it owns, with a cache in `folder`.

    Any number of processes may use one folder; all should give the same `max_bytes`, the most
    that is kept in it.  Beside that there is on the disk, unnamed, the block that each thread is
    just writing.  A block is fetched once, whoever needs it, and least recently used blocks go
    first; one that is being read stays.  Only blocks of the cache's own naming are ever removed,
    and each of them came from a store.

    An object keeps the version that it had when this store first looked: one that changes is a
    `StorageError`.  A disk that is full or fails is passed by and reported once as a warning.
    """

    def __init__(
        self,
        store: Store,
        folder: str | os.PathLike[str],
        *,
        max_bytes: int,
        block_bytes: int = 4 << 20,
        num_threads: int = 16,
    ) -> None:
        if block_bytes < 4096 or block_bytes % 4096:
            raise PipelineError(f"block_bytes={block_bytes}: give a multiple of 4096")
        if max_bytes < 2 * block_bytes:
            raise PipelineError(
                f"max_bytes={max_bytes} holds no two blocks of {block_bytes} bytes: give more"
            )
        if num_threads < 1:
            raise PipelineError(f"num_threads={num_threads} must be 1 or more")
        self._store = store
        self._settings = os.fspath(folder), max_bytes, block_bytes, num_threads
        self._max_bytes, self._block_bytes = max_bytes, block_bytes
        self._folder = CacheFolder(folder, max_bytes=max_bytes)
        self._known: dict[str, _Known] = {}
        self._lock = threading.Lock()
        self._threads = ReadThreads(num_threads, name="iopipe-cache")
        self._disk_fault: str | None = None
        self._disk_again_at = 0.0
        self._of_thread = threading.local()
        self.num_hits = self.num_misses = 0
        """Blocks that were there, and that were not, each time that one was needed."""

    def __reduce__(self) -> tuple[Callable[..., CachedStore], tuple[object, ...]]:
        return _from_settings, (self._store, *self._settings)

    @property
    def num_damaged(self) -> int:
        """Blocks whose checksum was wrong; they were fetched again."""
        return self._folder.num_damaged

    def size(self, path: str) -> int:
        return self._look(path).size

    def version(self, path: str) -> str:
        return self._look(path).version

    def glob(self, pattern: str) -> list[str]:
        return self._store.glob(pattern)

    def local_path(self, path: str) -> None:
        return None

    def view(self, path: str) -> None:
        return None

    def read_into(self, path: str, offset: int, buffer: memoryview) -> int:
        return self.submit([ReadRequest(path, offset, buffer)]).wait()[0]

    def submit(self, requests: Sequence[ReadRequest]) -> Reads:
        reads = CachedReads(requests, self._block_bytes)
        drain = partial(reads.drain, self._serve)
        reads.futures += self._threads.run(drain, num_threads=len(reads))
        return reads

    def describe(self) -> str:
        fault = "" if self._disk_fault is None else f" (passed by: {self._disk_fault})"
        return (
            f"cache: {self._folder.path}, up to {self._max_bytes >> 20} MiB in blocks of "
            f"{self._block_bytes >> 10} KiB{fault}, before {self._store.describe()}"
        )

    def close(self) -> None:
        """Wait for the reads under way, end the threads, close the store below; idempotent."""
        self._threads.close()
        self._store.close()

    # ---- one block ---------------------------------------------------------------------

    def _serve(self, block: Block) -> None:
        start = block.number * self._block_bytes
        if block.number < 0:
            raise StorageError(
                f"cannot read {shown(block.path)} at offset {start + block.parts[0].offset}: "
                "give 0 or more"
            )
        known = self._look(block.path)
        length = min(self._block_bytes, known.size - start)
        wanted = block.clip(length)
        if not wanted:
            return
        name = f"{known.name}-{block.number}"
        try:
            is_served = self._from_disk(name, wanted) or self._filled(
                name, known, ByteRange(block.path, start, length), wanted
            )
        except StorageError:
            raise
        except OSError as error:
            is_served = False
            self._disk_failed(error)
        if not is_served:
            self._past(block.path, start, wanted, known)

    def _from_disk(self, name: str, wanted: Sequence[Part]) -> bool:
        entry = self._folder.open(name)
        if entry is None:
            return False
        try:
            for part in wanted:
                entry.read_into(part.offset, part.buffer)
        finally:
            entry.close()
        with self._lock:
            self.num_hits += 1
        return True

    def _filled(self, name: str, known: _Known, block: ByteRange, wanted: Sequence[Part]) -> bool:
        """Fetch the block, or wait for who does; False where it is to be read past the cache."""
        if time.monotonic() < self._disk_again_at:
            return False
        with self._folder.filling(name, patience_seconds=_PATIENCE_SECONDS) as is_ours:
            if self._from_disk(name, wanted):
                return True
            if not is_ours:
                return False
            with self._lock:
                self.num_misses += 1
            content = self._fetched(known, block, wanted)
            for part in wanted:
                if part.buffer is not content:
                    part.buffer[:] = content[part.offset : part.offset + part.num_bytes]
            try:
                self._folder.publish(name, content)
            except OSError as error:
                self._disk_failed(error)
            else:
                self._disk_fault = None
        return True

    def _fetched(self, known: _Known, block: ByteRange, wanted: Sequence[Part]) -> memoryview:
        """The whole block: in the buffer of a request that wants all of it, or in one of ours."""
        whole = [part.buffer for part in wanted if part.num_bytes == block.length]
        buffer = whole[0] if whole else self._scratch()[: block.length]
        self._read_below([ReadRequest(block.path, block.offset, buffer)], known)
        return buffer

    def _scratch(self) -> memoryview:
        found: memoryview | None = getattr(self._of_thread, "scratch", None)
        if found is None:
            found = self._of_thread.scratch = memoryview(bytearray(self._block_bytes))
        return found

    def _past(self, path: str, start: int, wanted: Sequence[Part], known: _Known) -> None:
        requests = [ReadRequest(path, start + part.offset, part.buffer) for part in wanted]
        self._read_below(requests, known)

    def _read_below(self, requests: Sequence[ReadRequest], known: _Known) -> None:
        """All of it, out of the version that is known."""
        counts = self._store.submit(requests).wait()
        path = requests[0].path
        is_short = any(n != len(one.buffer) for n, one in zip(counts, requests, strict=True))
        if is_short or self._store.version(path) != known.version:
            raise StorageError(
                f"cannot read {shown(path)}: it changed since it was opened; open the dataset again"
            )

    def _look(self, path: str) -> _Known:
        with self._lock:
            known = self._known.get(path)
        if known is None:
            version, size = self._store.version(path), self._store.size(path)
            key = f"{path}\0{version}\0{size}\0{self._block_bytes}".encode()
            known = _Known(size, version, hashlib.blake2b(key, digest_size=16).hexdigest())
            with self._lock:
                known = self._known.setdefault(path, known)
        return known

    def _disk_failed(self, error: OSError) -> None:
        reason = error.strerror or str(error)
        self._disk_again_at = time.monotonic() + _RETRY_DISK_SECONDS
        with self._lock:
            is_news, self._disk_fault = self._disk_fault != reason, reason
        if is_news:
            _log.warning(
                "the cache in %r is passed by: %s; reads go on without it",
                self._folder.path,
                reason,
            )


def _from_settings(
    store: Store, folder: str, max_bytes: int, block_bytes: int, num_threads: int
) -> CachedStore:
    return CachedStore(
        store, folder, max_bytes=max_bytes, block_bytes=block_bytes, num_threads=num_threads
    )
