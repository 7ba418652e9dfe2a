"""What a store can give at most, measured.

Stands beside the stores.  Invariant: a ceiling was measured, here or by `iopipe bench storage`;
where neither was done there is none.
"""

from __future__ import annotations

import itertools
import json
import os
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from iopipe.errors import PipelineError
from iopipe.protocols import ByteRange, ReadRequest, Store

_LEVELS = (1, 4, 16)
_MAX_FILE_BYTES = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceiling:
    """Of one store, for one dataset or in general."""

    bytes_per_second: float
    how: str
    """For people: what was read, how many at a time."""


def probe(store: Store, coming: Iterator[Sequence[ByteRange]], *, seconds: float = 2.0) -> Ceiling:
    """Read the ranges of `coming` and do nothing with them, by 1, 4 and 16 threads after each
    other, `seconds` in all; the best of them counts.

    What lies in the page cache is read from there, as a run would, and what was read lies there
    afterwards: take ranges that the run comes to last.  `PipelineError` where there are none.
    """
    taken = _Shared(coming)
    rates = {level: _rate(store, taken, level, seconds / len(_LEVELS)) for level in _LEVELS}
    level = max(rates, key=lambda one: rates[one])
    if not rates[level]:
        raise PipelineError("there is nothing to read, and so no ceiling to measure")
    return Ceiling(
        bytes_per_second=rates[level],
        how=f"read for {seconds:g} s, best by {level} of {_LEVELS} threads",
    )


def ceiling_of_bench(path: str | os.PathLike[str]) -> Ceiling:
    """The fastest way into host memory among the rows that `iopipe bench storage --json` wrote;
    `PipelineError` where there is none."""
    data = Path(path).read_bytes()[: _MAX_FILE_BYTES + 1]
    try:
        rows = json.loads(data)["rows"]
        found = [
            (float(row["gbps"]) * 1e9, f"{row['backend']}, {int(row['block_bytes'])} bytes a read")
            for row in rows
            if "gbps" in row and "host" in str(row.get("destination", "host"))
        ]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        said = f"{type(error).__name__}: {error}"
        raise PipelineError(f"{os.fspath(path)!r} is no storage benchmark ({said})") from error
    if not found or max(found)[0] <= 0:
        raise PipelineError(f"{os.fspath(path)!r} has no row of reads into host memory")
    rate, how = max(found)
    return Ceiling(bytes_per_second=rate, how=f"iopipe bench storage: {how}")


class _Shared:
    """One iterator for several threads."""

    def __init__(self, inner: Iterator[Sequence[ByteRange]]) -> None:
        self._inner = inner
        self._lock = threading.Lock()

    def next(self) -> Sequence[ByteRange] | None:
        with self._lock:
            return next(self._inner, None)


def _rate(store: Store, taken: _Shared, num_threads: int, seconds: float) -> float:
    counts, errors = [0] * num_threads, []
    deadline = time.perf_counter() + seconds

    def read(number: int) -> None:
        try:
            while time.perf_counter() < deadline and (ranges := taken.next()) is not None:
                counts[number] += _read(store, ranges)
        except Exception as error:
            errors.append(error)

    start = time.perf_counter()
    threads = [
        threading.Thread(target=read, args=(number,), name="iopipe-probe", daemon=True)
        for number in range(num_threads)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return sum(counts) / (time.perf_counter() - start)


def _read(store: Store, ranges: Sequence[ByteRange]) -> int:
    """One submission, as a chunk of a run is; views of a mapped store are read by copying."""
    ends = list(itertools.accumulate((part.length for part in ranges), initial=0))
    room = memoryview(bytearray(ends[-1]))
    requests = [
        ReadRequest(part.path, part.offset, room[start : start + part.length])
        for part, start in zip(ranges, ends, strict=False)
    ]
    return sum(store.submit(requests).wait())
