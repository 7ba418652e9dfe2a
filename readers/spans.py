"""Rows of one width, and where each of them lies in its shard.

Stands between sources whose rows have bytes of their own and whoever reads them into a buffer
of the host or of a device.  Invariant: rows that follow each other in a shard are one stretch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from iopipe.protocols import Int64Array


@dataclass(frozen=True, slots=True, kw_only=True)
class RowSpans:
    """One column of some samples, as m stretches of rows."""

    name: str
    dtype: np.dtype[Any]
    row_shape: tuple[int, ...]
    shards: Int64Array
    """[m]: number of the shard."""
    offsets: Int64Array
    """[m], bytes: where the first row of a stretch lies."""
    firsts: Int64Array
    """[m]: which row that is, ascending from 0."""
    counts: Int64Array
    """[m]: rows in the stretch."""

    @property
    def row_bytes(self) -> int:
        return int(np.prod(self.row_shape, dtype=np.int64)) * self.dtype.itemsize

    def runs(self) -> list[tuple[int, int, int, int]]:
        """(shard, offset, first row, rows) of each stretch, which one read brings."""
        parts = (self.shards, self.offsets, self.firsts, self.counts)
        return list(zip(*(part.tolist() for part in parts), strict=True))

    def by_row(self) -> tuple[Int64Array, Int64Array]:
        """(shard, offset) of every row."""
        if len(self.counts) == 0 or (self.counts == 1).all():
            return self.shards, self.offsets
        within = np.arange(int(self.counts.sum())) - np.repeat(self.firsts, self.counts)
        offsets = np.repeat(self.offsets, self.counts) + within * self.row_bytes
        return np.repeat(self.shards, self.counts), offsets
