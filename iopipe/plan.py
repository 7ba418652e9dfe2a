"""Which samples are worked on together, and in which order.

Stands between the order (arithmetic) and the engine (threads).  Invariant: batch k of an
epoch covers this rank's samples k*B .. (k+1)*B-1 and no others, so a sample that is
skipped makes its own batch shorter and moves no other sample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from iopipe.errors import PipelineError
from iopipe.order import Cursor, Order
from iopipe.protocols import Int64Array, Source

_PROBED_SAMPLES = 256
_BLOCK_SAMPLES = 4096
"""Ids are permuted this many at a time: a call costs more than an id."""


def mean_sample_bytes(source: Source) -> float:
    """Bytes of a sample on average, 1 at least, judged by some that are spread over the source;
    a source whose samples share what is read for them says it itself, as `mean_bytes`."""
    num_samples = len(source)
    if not num_samples:
        return 1.0
    known: float | None = getattr(source, "mean_bytes", None)
    if known is not None:
        return max(1.0, known)
    probe = list(range(0, num_samples, max(1, num_samples // _PROBED_SAMPLES)))
    return max(1.0, sum(part.length for part in source.ranges(probe)) / len(probe))


def samples_in(num_bytes: int, source: Source) -> int:
    """How many samples have about so many bytes, 1 at least."""
    return max(1, round(num_bytes / mean_sample_bytes(source)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """Samples that are read and decoded as one chunk."""

    entry: Cursor
    """Where this run entered the epoch."""
    first: int
    """How many of this rank's samples, counted from `entry`, come before the chunk."""
    ids: Int64Array
    num_valid: int
    """Of `ids`, from the first on: those that are not there to fill up the last batch."""
    row: int
    """Where in its batch the chunk begins."""
    num_batch_rows: int

    @property
    def ends_batch(self) -> bool:
        return self.row + len(self.ids) == self.num_batch_rows

    @property
    def epoch(self) -> int:
        return self.entry.epoch

    @property
    def batch(self) -> tuple[int, int]:
        """What all chunks of a batch, and no others of the run, have in common."""
        return self.epoch, self.first - self.row


class Plan(Protocol):
    """Everything that fixes the sequence of tasks of one rank."""

    @property
    def order(self) -> Order: ...

    @property
    def end_epoch(self) -> int | None:
        """The first epoch that is not run; None: without end."""
        ...

    def tasks(self, cursor: Cursor) -> Iterator[Task]:
        """All tasks from `cursor` on, in order."""
        ...

    def after(self, entry: Cursor, num_samples: int) -> Cursor:
        """The cursor once every rank was delivered `num_samples` since `entry`."""
        ...

    def position_after(self, entry: Cursor, num_samples: int) -> int:
        """The position then, in the epoch of `entry`; its end's where that is reached."""
        ...

    def num_samples(self, cursor: Cursor) -> int:
        """Of this rank, from `cursor` to the end of its epoch."""
        ...

    def num_batches(self, cursor: Cursor) -> int:
        """Batches from `cursor` to the end of its epoch, the same on every rank; chunks where
        nothing is batched."""
        ...

    def identity(self) -> dict[str, Any]:
        """What a saved place belongs to, as plain values."""
        ...

    def check(self, cursor: Cursor) -> None:
        """`StateError` where there is no such place."""
        ...

    def share(self) -> dict[str, Any]:
        """What decides which part of an epoch a rank gets, as plain values."""
        ...

    def details(self, cursor: Cursor) -> dict[str, Any]:
        """What else people may want to know of a saved place, as plain values."""
        ...


def epoch_by_epoch(
    tasks_of: Callable[[Cursor], Iterator[Task]], cursor: Cursor, *, end_epoch: int | None
) -> Iterator[Task]:
    """The tasks from `cursor` on; `PipelineError` where they would never come."""
    while end_epoch is None or cursor.epoch < end_epoch:
        has_tasks = False
        for task in tasks_of(cursor):
            has_tasks = True
            yield task
        if end_epoch is None and not has_tasks and cursor == Cursor(epoch=cursor.epoch):
            raise PipelineError(
                "an epoch has no batch for this rank, and the run no end: give num_epochs, more "
                "data, fewer ranks or a smaller batch"
            )
        cursor = Cursor(epoch=cursor.epoch + 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplePlan:
    """Samples of an order, batch by batch."""

    order: Order
    batch_size: int | None
    """None: samples are not batched, every chunk stands alone."""
    drop_last: bool
    chunk_samples: int
    end_epoch: int | None
    batches_together: int = 1
    """Batches that are made as one, and taken apart when they are handed over: small ones cost
    less so.  Of use where `chunk_samples` is as many samples."""
    live_chunk: Callable[[], int] | None = None
    """Asked for every batch that is cut into tasks, in place of `chunk_samples`: how samples are
    cut changes what is worked on at once, never what is in a batch."""

    def __post_init__(self) -> None:
        if self._drops and self.order.tail == "pad":
            raise PipelineError(
                "tail='pad' fills up the last batch and drop_last leaves it out: give one of them"
            )

    def tasks(self, cursor: Cursor) -> Iterator[Task]:
        return epoch_by_epoch(self._epoch, cursor, end_epoch=self.end_epoch)

    def after(self, entry: Cursor, num_samples: int) -> Cursor:
        if num_samples >= self.num_samples(entry):
            return Cursor(epoch=entry.epoch + 1)
        return self.order.after(entry, num_samples)

    def position_after(self, entry: Cursor, num_samples: int) -> int:
        return self.order.after(entry, num_samples).position

    def num_batches(self, cursor: Cursor) -> int:
        size = self.batch_size or self.chunk_samples
        num_samples = self.num_samples(cursor)
        return num_samples // size if self._drops else -(-num_samples // size)

    def identity(self) -> dict[str, Any]:
        return self.order.sequence.identity()

    def check(self, cursor: Cursor) -> None:
        self.order.num_left(cursor)

    def details(self, cursor: Cursor) -> dict[str, Any]:
        return self.order.sequence.details(cursor.epoch, cursor.position)

    def share(self) -> dict[str, Any]:
        return {
            "rank": self.order.rank,
            "world": self.order.world,
            "tail": self.order.tail,
            "batch_size": self.batch_size,
            "drop_last": self.drop_last,
        }

    @property
    def _drops(self) -> bool:
        return self.drop_last and self.batch_size is not None

    def num_samples(self, cursor: Cursor) -> int:
        """Of this rank, from `cursor` to the end of its epoch, less a batch that is dropped."""
        size = self.batch_size or 1
        num_samples = self.order.num_local(cursor, batch_size=size)
        return num_samples - num_samples % size if self._drops else num_samples

    def _epoch(self, entry: Cursor) -> Iterator[Task]:
        size = (self.batch_size or self.chunk_samples) * self.batches_together
        block = max(1, _BLOCK_SAMPLES // size) * size
        num_samples = self.num_samples(entry)
        for first in range(0, num_samples, block):
            ids = self.order.ids(entry, first, min(first + block, num_samples))
            for batch_first in range(0, len(ids), size):
                batch_ids = ids[batch_first : batch_first + size]
                yield from self._batch(entry, first + batch_first, batch_ids)

    def _batch(self, entry: Cursor, first: int, ids: Int64Array) -> Iterator[Task]:
        size = self.live_chunk() if self.live_chunk is not None else self.chunk_samples
        for row in range(0, len(ids), size):
            chunk = ids[row : row + size]
            start = first + row
            yield Task(
                entry=entry,
                first=start,
                ids=chunk,
                num_valid=self.order.num_valid(entry, start, start + len(chunk)),
                row=row,
                num_batch_rows=len(ids),
            )
