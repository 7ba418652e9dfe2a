"""Near ranges become one read, large ones several.

Stands between those who know ranges (`readers`, the stores) and those who read them.  Invariant:
a range lies in one read, or is cut into several without a gap; where ranges overlap, some bytes may
be read twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from iopipe.errors import PipelineError
from iopipe.protocols import Int64Array, ReadRequest, Reads


@dataclass(frozen=True, slots=True)
class JoinedRanges:
    """m reads for n ranges, sorted by file and start."""

    files: Int64Array
    """[m]: number of the file of each read."""
    starts: Int64Array
    """[m], bytes"""
    lengths: Int64Array
    """[m], bytes"""
    which: Int64Array
    """[n]: the read that holds this range."""


def join_ranges(
    files: Int64Array,
    starts: Int64Array,
    ends: Int64Array,
    *,
    max_gap_bytes: int,
    max_joined_bytes: int,
) -> JoinedRanges:
    """Join ranges [n] of one file that are no further apart than `max_gap_bytes`; bytes
    between them are read along.

    A range that begins `max_joined_bytes` or more after the first of its read begins another
    one: reads may be longer than that only by their last range.  Ranges are never cut.
    """
    order = np.lexsort((starts, files))
    files, starts, ends = files[order], starts[order], ends[order]
    is_first = np.ones(len(order), bool)
    is_first[1:] = (files[1:] != files[:-1]) | (starts[1:] - ends[:-1] > max_gap_bytes)
    pieces = (starts - starts[is_first][np.cumsum(is_first) - 1]) // max_joined_bytes
    is_first[1:] |= pieces[1:] != pieces[:-1]
    firsts = np.flatnonzero(is_first)
    last_ends = np.maximum.reduceat(ends, firsts) if len(firsts) else ends
    which = np.empty(len(order), np.int64)
    which[order] = np.cumsum(is_first) - 1
    return JoinedRanges(files[firsts], starts[firsts], last_ends - starts[firsts], which)


@dataclass(frozen=True, slots=True)
class Split:
    """Requests no longer than a task, and how to add up what they bring."""

    requests: list[ReadRequest]
    firsts: list[int]
    """Which of `requests` each one asked for begins with; one more at the end."""

    def added_up(self, counts: Sequence[int]) -> list[int]:
        """The bytes of each request as asked for: those up to its first short task."""
        sums = []
        for first, end in zip(self.firsts, self.firsts[1:], strict=False):
            total = 0
            for task in range(first, end):
                total += counts[task]
                if counts[task] < len(self.requests[task].buffer):
                    break
            sums.append(total)
        return sums


class SplitReads:
    """`Reads` of a submission that was cut; errors keep their order."""

    def __init__(self, reads: Reads, split: Split) -> None:
        self._reads = reads
        self._split = split

    def wait(self) -> list[int]:
        return self._split.added_up(self._reads.wait())


def check_task_bytes(task_bytes: int, *, name: str = "task_bytes") -> None:
    if task_bytes < 4096 or task_bytes % 4096:
        raise PipelineError(
            f"{name}={task_bytes}: give a multiple of 4096, so that aligned reads stay so"
        )


def split_requests(requests: Sequence[ReadRequest], *, task_bytes: int) -> Split | None:
    """Cut what is longer than `task_bytes`; None where nothing is."""
    if all(len(request.buffer) <= task_bytes for request in requests):
        return None
    tasks: list[ReadRequest] = []
    firsts: list[int] = []
    for request in requests:
        firsts.append(len(tasks))
        for start in range(0, max(1, len(request.buffer)), task_bytes):
            part = request.buffer[start : start + task_bytes]
            tasks.append(ReadRequest(request.path, request.offset + start, part))
    return Split(tasks, [*firsts, len(tasks)])
