"""Which samples are worked on together, and in which order.

Stands between the order (arithmetic) and the engine (threads).  Invariant: batch k of an
epoch covers this rank's samples k*B .. (k+1)*B-1 and no others, so a sample that is
skipped makes its own batch shorter and moves no other sample.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from iopipe.order import Order
from iopipe.protocols import Int64Array

_BLOCK_SAMPLES = 1024
"""Ids are permuted this many at a time: a call costs more than an id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cursor:
    """A place at a batch boundary: plain integers, independent of ranks and threads."""

    epoch: int = 0
    position: int = 0
    """Samples of the epoch that all ranks together have consumed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """Samples that are read and decoded as one chunk."""

    epoch: int
    start: int
    """The global position at which this run entered the epoch."""
    first: int
    """How many of this rank's samples, counted from `start`, come before the chunk."""
    ids: Int64Array
    row: int
    """Where in its batch the chunk begins."""
    num_batch_rows: int

    @property
    def ends_batch(self) -> bool:
        return self.row + len(self.ids) == self.num_batch_rows

    @property
    def batch(self) -> tuple[int, int]:
        """What all chunks of a batch, and no others of the run, have in common."""
        return self.epoch, self.first - self.row


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything that fixes the sequence of tasks."""

    order: Order
    batch_size: int | None
    """None: samples are not batched, every chunk stands alone."""
    drop_last: bool
    chunk_samples: int
    end_epoch: int | None
    """The first epoch that is not run; None: without end."""

    def tasks(self, cursor: Cursor) -> Iterator[Task]:
        """All tasks from `cursor` on, in order."""
        epoch, start = cursor.epoch, cursor.position
        while self.end_epoch is None or epoch < self.end_epoch:
            yield from self._epoch(epoch, start)
            epoch, start = epoch + 1, 0

    def after(self, task: Task, num_samples: int) -> Cursor:
        """The cursor once `num_samples` of this task have been delivered."""
        consumed = task.first + num_samples
        if consumed >= self._num_samples(task.start):
            return Cursor(epoch=task.epoch + 1)
        return Cursor(epoch=task.epoch, position=self.order.position(task.start, consumed))

    def num_batches(self, start: int = 0) -> int:
        """Batches of one epoch, the same on every rank; chunks where nothing is batched."""
        size = self.batch_size or self.chunk_samples
        num_samples = self._num_samples(start)
        return num_samples // size if self._drops else -(-num_samples // size)

    @property
    def _drops(self) -> bool:
        return self.drop_last and self.batch_size is not None

    def _num_samples(self, start: int) -> int:
        num_samples = self.order.num_local(start)
        if self._drops and self.batch_size is not None:
            num_samples -= num_samples % self.batch_size
        return num_samples

    def _epoch(self, epoch: int, start: int) -> Iterator[Task]:
        size = self.batch_size or self.chunk_samples
        block = max(1, _BLOCK_SAMPLES // size) * size
        num_samples = self._num_samples(start)
        for first in range(0, num_samples, block):
            ids = self.order.ids(epoch, start, first, min(first + block, num_samples))
            for batch_first in range(0, len(ids), size):
                batch_ids = ids[batch_first : batch_first + size]
                yield from self._batch(epoch, start, first + batch_first, batch_ids)

    def _batch(self, epoch: int, start: int, first: int, ids: Int64Array) -> Iterator[Task]:
        for row in range(0, len(ids), self.chunk_samples):
            chunk = ids[row : row + self.chunk_samples]
            yield Task(
                epoch=epoch,
                start=start,
                first=first + row,
                ids=chunk,
                row=row,
                num_batch_rows=len(ids),
            )
