"""Reads what an order will ask for before it is asked for, in few large reads.

Stands between a run and its store, and knows the ranges to come.  Invariant: what is handed out
are the bytes that the store below gave for that place, read once while they are held; memory is
bounded by the windows.

    coming ranges:  | window 0 | window 1 | window 2 | ...     each about `window_bytes`
                     handed out  being read               at most three are held

A window's ranges are joined per file, whatever their order: the blocks of a block shuffle become
whole reads, however their samples are mixed.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy as np

from iopipe.errors import PipelineError, StorageError
from iopipe.protocols import ByteRange, ReadRequest, Reads, Store
from iopipe.storage.coalesce import join_ranges

_NUM_WINDOWS = 3
"""One that is handed out, the one before it, of which a slow thread may still want something,
and the next one."""
_MAX_JOINED_BYTES = 1 << 23
_GROUP_BYTES = 1 << 20
"""Small reads are submitted together up to here: each submission costs a thread's wake-up."""


class ReadAheadStore:
    """A `Store` over `inner`, which it does not own.

    A request that the coming ranges do not hold is passed on as it is; `num_missed` counts
    them.  A read that fails fails again for the request that needs it, not for others.
    """

    def __init__(
        self,
        inner: Store,
        coming: Iterator[Sequence[ByteRange]],
        *,
        num_bytes: int,
        max_gap_bytes: int = 1 << 16,
    ) -> None:
        """`coming` gives the ranges in the order in which they will be asked for, a few at a
        time, and is used by a thread of this store.  About `num_bytes` are held at most, and
        gaps of up to `max_gap_bytes` that are read along.
        """
        if num_bytes < _NUM_WINDOWS:
            raise PipelineError(f"read ahead of {num_bytes} bytes: give at least {_NUM_WINDOWS}")
        self._inner = inner
        self._coming = coming
        self._max_gap_bytes = max_gap_bytes
        self._window_bytes = num_bytes // _NUM_WINDOWS
        self._windows: list[_Window] = []
        """Held, the oldest first."""
        self._newest_used = -1
        self._num_planned = 0
        self._is_planned_out = self._is_closed = False
        self._failure: BaseException | None = None
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self.num_served = self.num_missed = 0

    def submit(self, requests: Sequence[ReadRequest]) -> Reads:
        self._begin()
        found = [self._find(request) for request in requests]
        return _Served(self._inner, requests, found)

    def read_into(self, path: str, offset: int, buffer: memoryview) -> int:
        return self.submit([ReadRequest(path, offset, buffer)]).wait()[0]

    def size(self, path: str) -> int:
        return self._inner.size(path)

    def version(self, path: str) -> str:
        return self._inner.version(path)

    def glob(self, pattern: str) -> list[str]:
        return self._inner.glob(pattern)

    def local_path(self, path: str) -> str | None:
        return self._inner.local_path(path)

    def view(self, path: str) -> memoryview | None:
        return self._inner.view(path)

    def describe(self) -> str:
        return f"{self._inner.describe()}, {self.num_bytes >> 20} MiB read ahead"

    @property
    def num_bytes(self) -> int:
        """Held at most, about."""
        return self._window_bytes * _NUM_WINDOWS

    def resize(self, num_bytes: int) -> None:
        """Hold about so many bytes at most, from the next window on."""
        self._window_bytes = max(1, num_bytes // _NUM_WINDOWS)

    def close(self) -> None:
        """End the thread and wait for the reads under way; the inner store stays open."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join()
        with self._changed:  # only now: the thread may have been adding one
            windows, self._windows = self._windows, []
        for window in windows:
            window.drain()

    # ---- the side that asks ----------------------------------------------------------

    def _begin(self) -> None:
        """Start the thread with the first request, and wait for its first window."""
        with self._changed:
            if self._is_closed:
                raise StorageError("this store is closed; open a new one")
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._plan, name="iopipe-read-ahead", daemon=True
                )
                self._thread.start()
            self._changed.wait_for(lambda: self._windows or self._is_planned_out or self._is_closed)
            if self._failure is not None:
                raise self._failure

    def _find(self, request: ReadRequest) -> _Extent | None:
        with self._changed:
            while (held := self._held(request)) is None:
                if self._is_planned_out or not self._has_room():
                    self.num_missed += 1
                    return None
                self._changed.wait()  # the thread is about to add a window
            window, extent = held
            self.num_served += 1
            self._use(window)
            return extent

    def _held(self, request: ReadRequest) -> tuple[_Window, _Extent] | None:
        """The window in use comes first, then those after it, then the one before."""
        for window in sorted(self._windows, key=lambda one: one.number < self._newest_used):
            if (extent := window.extent(request)) is not None:
                return window, extent
        return None

    def _use(self, window: _Window) -> None:
        if window.number > self._newest_used:
            self._newest_used = window.number
            # Where requests still read from one that goes, they hold its memory themselves.
            self._windows = [one for one in self._windows if one.number >= window.number - 1]
            self._changed.notify_all()

    # ---- the thread that plans -------------------------------------------------------

    def _plan(self) -> None:
        try:
            for ranges in self._window_ranges():
                extents = _extents(ranges, self._max_gap_bytes)
                window = _Window(self._num_planned, ranges, extents, self._inner)
                with self._changed:
                    self._windows.append(window)
                    self._num_planned += 1
                    self._changed.notify_all()
                    self._changed.wait_for(self._has_room)
                    if self._is_closed:
                        return
        except BaseException as error:
            self._failure = error
        finally:
            with self._changed:
                self._is_planned_out = True
                self._changed.notify_all()

    def _has_room(self) -> bool:
        return self._is_closed or self._num_planned <= self._newest_used + 1

    def _window_ranges(self) -> Iterator[list[ByteRange]]:
        window: list[ByteRange] = []
        num_bytes = 0
        for ranges in self._coming:
            window += ranges
            num_bytes += sum(part.length for part in ranges)
            if num_bytes >= self._window_bytes:
                yield window
                window, num_bytes = [], 0
        if window:
            yield window


class _Extent:
    """One read of a window, and the group that it is submitted with."""

    __slots__ = ("buffer", "group", "offset", "path", "place")

    def __init__(self, path: str, offset: int, num_bytes: int) -> None:
        self.path = path
        self.offset = offset
        self.buffer = np.empty(num_bytes, np.uint8).data
        self.group: _Group | None = None
        self.place = 0

    def copy(self, request: ReadRequest) -> int | None:
        """Fill the request; the bytes it got, or None where this read failed."""
        assert self.group is not None
        num_read = self.group.num_read(self.place)
        if num_read is None:
            return None
        start = request.offset - self.offset
        num_bytes = max(0, min(len(request.buffer), num_read - start))
        request.buffer[:num_bytes] = self.buffer[start : start + num_bytes]
        return num_bytes


class _Group:
    """Reads that were submitted together; whoever comes first waits for them."""

    def __init__(self, inner: Store, extents: Sequence[_Extent]) -> None:
        for place, extent in enumerate(extents):
            extent.group, extent.place = self, place
        requests = [ReadRequest(one.path, one.offset, one.buffer) for one in extents]
        self._reads: Reads | None = inner.submit(requests)
        self._counts: list[int] | None = None
        self._lock = threading.Lock()

    def num_read(self, place: int) -> int | None:
        with self._lock:
            reads, self._reads = self._reads, None
            if reads is not None:
                self._counts = _counts_of(reads)
        return None if self._counts is None else self._counts[place]


def _counts_of(reads: Reads) -> list[int] | None:
    """None where one of them failed: those who need it read it again and get the error."""
    try:
        return reads.wait()
    except StorageError:
        return None


class _Window:
    """The reads for some of the coming ranges."""

    def __init__(
        self, number: int, ranges: Sequence[ByteRange], extents: Sequence[_Extent], inner: Store
    ) -> None:
        """`extents` are those of `ranges`, by path and offset."""
        self.number = number
        self._by_path = {
            path: list(group) for path, group in groupby(extents, key=lambda one: one.path)
        }
        self._offsets = {
            path: [extent.offset for extent in group] for path, group in self._by_path.items()
        }
        self._groups = [_Group(inner, part) for part in _parts(self._by_first_use(ranges))]

    def extent(self, request: ReadRequest) -> _Extent | None:
        """The one that holds the whole request."""
        offsets = self._offsets.get(request.path)
        if offsets is None:
            return None
        place = bisect_right(offsets, request.offset) - 1
        if place < 0:
            return None
        extent = self._by_path[request.path][place]
        end = extent.offset + len(extent.buffer)
        return extent if request.offset + len(request.buffer) <= end else None

    def drain(self) -> None:
        for group in self._groups:
            group.num_read(0)

    def _by_first_use(self, ranges: Sequence[ByteRange]) -> list[_Extent]:
        used: dict[int, _Extent] = {}
        for part in ranges:
            place = bisect_right(self._offsets[part.path], part.offset) - 1
            extent = self._by_path[part.path][place]
            used.setdefault(id(extent), extent)
        return list(used.values())


def _extents(ranges: Sequence[ByteRange], max_gap_bytes: int) -> list[_Extent]:
    """The reads that hold `ranges`, by path and offset."""
    paths = sorted({part.path for part in ranges})
    numbers = {path: number for number, path in enumerate(paths)}
    starts = np.array([part.offset for part in ranges], np.int64)
    joined = join_ranges(
        np.array([numbers[part.path] for part in ranges], np.int64),
        starts,
        starts + np.array([part.length for part in ranges], np.int64),
        max_gap_bytes=max_gap_bytes,
        max_joined_bytes=_MAX_JOINED_BYTES,
    )
    rows = zip(joined.files.tolist(), joined.starts.tolist(), joined.lengths.tolist(), strict=True)
    return [_Extent(paths[file], start, length) for file, start, length in rows]


def _parts(extents: Sequence[_Extent]) -> Iterator[list[_Extent]]:
    part: list[_Extent] = []
    num_bytes = 0
    for extent in extents:
        part.append(extent)
        num_bytes += len(extent.buffer)
        if num_bytes >= _GROUP_BYTES:
            yield part
            part, num_bytes = [], 0
    if part:
        yield part


class _Served:
    """`Reads` out of what is held, and of the inner store for the rest."""

    def __init__(
        self, inner: Store, requests: Sequence[ReadRequest], found: Sequence[_Extent | None]
    ) -> None:
        self._inner = inner
        self._requests = requests
        self._found = found
        passed = [number for number, extent in enumerate(found) if extent is None]
        self._passed = passed, inner.submit([requests[number] for number in passed])

    def wait(self) -> list[int]:
        counts: list[int | None] = [None] * len(self._requests)
        for number, extent in enumerate(self._found):
            if extent is not None:
                counts[number] = extent.copy(self._requests[number])
        numbers, reads = self._passed
        self._take(counts, numbers, reads)
        again = [number for number, count in enumerate(counts) if count is None]
        self._take(counts, again, self._inner.submit([self._requests[at] for at in again]))
        return [count or 0 for count in counts]

    @staticmethod
    def _take(counts: list[int | None], numbers: Sequence[int], reads: Reads) -> None:
        for number, count in zip(numbers, reads.wait(), strict=True):
            counts[number] = count
