"""Which block is read when: one after the other, at random, or shard by shard.

Pure arithmetic, before anything is read.  Invariant: within one pass no block comes twice, and a
pass that is not cut covers every whole block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from iopipe.bench.storage.jobs import Access
from iopipe.errors import PipelineError

SHARD_BYTES = 64 << 20
"""What counts as a shard where one large file is read."""

Blocks = npt.NDArray[np.int64]
"""[n, 2]: which file, and the offset in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """Whole blocks of some files, in the order of an access pattern."""

    sizes: Sequence[int]
    """Of the files, in bytes."""
    block_bytes: int
    access: Access
    seed: int = 0

    def lanes(self, num_lanes: int, *, most: int) -> list[Blocks]:
        """The blocks of each lane, at most `most` each.

        Lanes take turns where they share one sequence; in shard order each has shards of its
        own, as the readers of a training job do.
        """
        counts = np.asarray(self.sizes, np.int64) // self.block_bytes
        if not counts.sum():
            raise PipelineError(
                f"blocks of {self.block_bytes} bytes are larger than every file; give smaller ones"
            )
        if self.access == "shards":
            return self._shards(counts, num_lanes, most)
        total, wanted = int(counts.sum()), num_lanes * most
        order = np.arange(min(total, wanted), dtype=np.int64)
        if self.access == "random":
            order = _draw(total, wanted, np.random.default_rng(self.seed))
        blocks = self._places(order, counts)
        return [blocks[lane::num_lanes] for lane in range(num_lanes)]

    def _places(self, order: npt.NDArray[np.int64], counts: npt.NDArray[np.int64]) -> Blocks:
        ends = np.cumsum(counts)
        files = np.searchsorted(ends, order, side="right")
        within = order - (ends - counts)[files]
        return np.stack((files, within * self.block_bytes), axis=1)

    def _shards(self, counts: npt.NDArray[np.int64], num_lanes: int, most: int) -> list[Blocks]:
        each = max(1, SHARD_BYTES // self.block_bytes)
        shards = [
            (file, first, min(first + each, int(count)))
            for file, count in enumerate(counts)
            for first in range(0, int(count), each)
        ]
        order = np.random.default_rng(self.seed).permutation(len(shards))
        lanes = []
        for lane in range(num_lanes):
            parts = [
                np.stack((np.full(end - first, file), np.arange(first, end)), axis=1)
                for file, first, end in (shards[index] for index in order[lane::num_lanes])
            ]
            blocks = np.concatenate(parts or [np.empty((0, 2), np.int64)])[:most].astype(np.int64)
            lanes.append(blocks * np.array([1, self.block_bytes]))
        return lanes


def _draw(total: int, wanted: int, draws: np.random.Generator) -> npt.NDArray[np.int64]:
    """`wanted` of `total` numbers without repetition, or all of them."""
    if total <= 4 * wanted:
        return draws.permutation(total)[:wanted]
    found: npt.NDArray[np.int64] = np.empty(0, np.int64)
    while len(found) < wanted:
        more = draws.integers(total, size=wanted + wanted // 2)
        both = np.concatenate((found, more))
        _, firsts = np.unique(both, return_index=True)
        found = both[np.sort(firsts)]
    return found[:wanted]
