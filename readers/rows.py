"""Which row of which shard a sample id is.

Stands under every source.  Invariant: ids count the rows of the shards in order, and an id
outside of them is an `IndexError`, never another sample.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from iopipe.protocols import Int64Array


class Rows:
    """The samples of a list of shards; immutable."""

    __slots__ = ("_ends", "_starts")

    def __init__(self, counts: Sequence[int] | Int64Array) -> None:
        """`counts` has the number of samples of each shard."""
        sizes = np.asarray(counts, np.int64)
        self._ends = np.cumsum(sizes, dtype=np.int64)
        self._starts = self._ends - sizes

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def place(self, ids: Sequence[int] | Int64Array) -> tuple[Int64Array, Int64Array]:
        """(shard, row within the shard) of each id, both int64 [n]."""
        wanted = np.asarray(ids, np.int64)
        if wanted.size and not 0 <= int(wanted.min()) <= int(wanted.max()) < len(self):
            outside = wanted[(wanted < 0) | (wanted >= len(self))]
            raise IndexError(f"sample {int(outside[0])} of {len(self)}")
        shards = np.searchsorted(self._ends, wanted, side="right")
        return shards, wanted - self._starts[shards] if wanted.size else wanted

    def start(self, shard: int) -> int:
        """The id of a shard's first sample."""
        return int(self._starts[shard])
