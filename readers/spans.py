"""Rows of one width, and where each of them lies in its shard.

Stands between sources whose rows have bytes of their own and whoever reads them into a buffer
of the host or of a device.  Invariant: rows that follow each other in a shard are one read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from iopipe.protocols import Int64Array


@dataclass(frozen=True, slots=True, kw_only=True)
class RowSpans:
    """One column of some samples: the bytes of row i are `row_bytes` from `offsets[i]` on."""

    name: str
    dtype: np.dtype[Any]
    row_shape: tuple[int, ...]
    shards: Int64Array
    """[n]: number of the shard of each row."""
    offsets: Int64Array
    """[n], bytes"""

    @property
    def row_bytes(self) -> int:
        return int(np.prod(self.row_shape, dtype=np.int64)) * self.dtype.itemsize

    def runs(self) -> list[tuple[int, int, int, int]]:
        """(shard, offset, first row, rows) of each stretch that one read brings."""
        if not len(self.offsets):
            return []
        follows = (self.shards[1:] == self.shards[:-1]) & (
            self.offsets[1:] == self.offsets[:-1] + self.row_bytes
        )
        firsts = np.flatnonzero(np.concatenate([[True], ~follows]))
        counts = np.diff(np.append(firsts, len(self.offsets)))
        return list(
            zip(
                self.shards[firsts].tolist(),
                self.offsets[firsts].tolist(),
                firsts.tolist(),
                counts.tolist(),
                strict=True,
            )
        )
