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

    def stretches(self, ids: Int64Array) -> tuple[Int64Array, Int64Array, Int64Array, Int64Array]:
        """(shard, row within it, place in `ids`, length) of each run of ids that follow each
        other within a shard."""
        if not len(ids):
            return ids, ids, ids, ids
        firsts = np.flatnonzero(np.concatenate([[True], ids[1:] != ids[:-1] + 1]))
        lasts = np.append(firsts[1:], len(ids)) - 1
        begins, ends = self.place(ids[firsts])[0], self.place(ids[lasts])[0]
        if (begins != ends).any():
            cuts = [firsts]
            for run in np.flatnonzero(begins != ends).tolist():
                inner = self._starts[begins[run] + 1 : ends[run] + 1]
                cuts.append(firsts[run] + inner - ids[firsts[run]])
            firsts = np.unique(np.concatenate(cuts))
        shards, rows = self.place(ids[firsts])
        return shards, rows, firsts, np.diff(np.append(firsts, len(ids)))

    def start(self, shard: int) -> int:
        """The id of a shard's first sample."""
        return int(self._starts[shard])
