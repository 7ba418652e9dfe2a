"""Local files as mapped memory: readers get views, and nothing is copied.

Stands where `storage.posix` stands, which does all that is not a view.  Invariant: a view
shows the file that its path named when the view was asked for, for as long as the view
lives.
"""

from __future__ import annotations

import mmap
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TypeAlias

from iopipe.errors import PipelineError
from iopipe.protocols import ReadRequest, Reads
from iopipe.storage.descriptors import Advise, check_regular, storage_error
from iopipe.storage.posix import PosixStore, plain_path

_ADVICE: dict[Advise, int | None] = {
    "none": None,
    "random": mmap.MADV_RANDOM,
    "sequential": mmap.MADV_SEQUENTIAL,
    "willneed": mmap.MADV_WILLNEED,
}

_Identity: TypeAlias = tuple[int, int, int, int]


class MappedStore:
    """A `Store` whose `view` maps local files; reads into buffers are those of `PosixStore`.

    For data in the page cache, or on a disk that answers page faults fast: a fault reads
    ahead by what the kernel thinks fit, one at a time.  A shard that is cut while its view
    is read kills the process with SIGBUS, as with every mapped file: map what nobody
    rewrites in place.
    """

    def __init__(self, *, max_maps: int = 4096, advise: Advise = "none") -> None:
        """`max_maps` files stay mapped; the least recently used one goes first, when its
        last view does.  The system allows 65,530 maps a process by default.  `advise` is what
        the kernel is told of each map, see madvise(2)."""
        if max_maps < 1:
            raise PipelineError(f"max_maps={max_maps} must be 1 or more")
        if advise not in _ADVICE:
            raise PipelineError(f"advise is {advise!r}: give one of {', '.join(_ADVICE)}")
        self._max_maps = max_maps
        self._advise = advise
        self._store = PosixStore()
        self._maps: OrderedDict[str, tuple[_Identity, memoryview]] = OrderedDict()
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Callable[..., MappedStore], tuple[int, Advise]]:
        return _from_settings, (self._max_maps, self._advise)

    def size(self, path: str) -> int:
        return self._store.size(path)

    def version(self, path: str) -> str:
        return self._store.version(path)

    def glob(self, pattern: str) -> list[str]:
        return self._store.glob(pattern)

    def local_path(self, path: str) -> str:
        return self._store.local_path(path)

    def read_into(self, path: str, offset: int, buffer: memoryview) -> int:
        return self._store.read_into(path, offset, buffer)

    def submit(self, requests: Sequence[ReadRequest]) -> Reads:
        return self._store.submit(requests)

    def view(self, path: str) -> memoryview:
        local = plain_path(path)
        try:
            found = os.stat(local)
        except OSError as error:
            raise storage_error("map", path, error) from error
        check_regular(path, found.st_mode)
        identity = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
        with self._lock:
            kept = self._maps.get(local)
            if kept is not None and kept[0] == identity:
                self._maps.move_to_end(local)
                return kept[1]
        view = _mapped(local, path, advice=_ADVICE[self._advise])
        with self._lock:
            self._maps[local] = (identity, view)
            self._maps.move_to_end(local)
            while len(self._maps) > self._max_maps:
                self._maps.popitem(last=False)
        return view

    def describe(self) -> str:
        return f"mapped: mmap, {len(self._maps)} files"

    def close(self) -> None:
        """Forget the maps; each is undone when its last view goes."""
        self._store.close()
        with self._lock:
            self._maps.clear()


def _mapped(local: str, path: str, *, advice: int | None) -> memoryview:
    try:
        descriptor = os.open(local, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if os.fstat(descriptor).st_size == 0:  # which mmap(2) refuses
                return memoryview(b"")
            mapped = mmap.mmap(descriptor, 0, prot=mmap.PROT_READ)
            if advice is not None:
                mapped.madvise(advice)
            return memoryview(mapped)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise storage_error("map", path, error) from error


def _from_settings(max_maps: int, advise: Advise) -> MappedStore:
    return MappedStore(max_maps=max_maps, advise=advise)
