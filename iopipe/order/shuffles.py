"""Sequences of an epoch: which sample stands at each position.

Stands between the permutation and the ranks' shares.  Invariant: within an epoch positions
and samples correspond one to one, and nothing but seed, epoch and position decides; ranks,
workers and threads are not known here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np

from iopipe.errors import PipelineError
from iopipe.order.permutation import permute, scatter, unpermute
from iopipe.protocols import Int64Array

Mode: TypeAlias = Literal["full", "block", "none"]


class EpochSequence(Protocol):
    """What a run goes through, epoch by epoch."""

    @property
    def seed(self) -> int:
        """Keys the random draws of the samples as well."""
        ...

    def num_positions(self, epoch: int) -> int: ...

    def ids(self, epoch: int, positions: Int64Array) -> Int64Array:
        """The samples at these positions, each in [0, num_positions(epoch))."""
        ...

    def describe(self) -> str:
        """In a few words, for people."""
        ...

    def identity(self) -> dict[str, Any]:
        """All that decides which sample comes when, as plain values: a saved state holds them,
        and one with others is refused."""
        ...

    def details(self, epoch: int, position: int) -> dict[str, Any]:
        """What else a state says of a place, for people; it follows from the rest."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """Every epoch as the samples are stored."""

    num_samples: int
    seed: int = 0

    def __post_init__(self) -> None:
        _check_size(self.num_samples)

    def num_positions(self, epoch: int) -> int:
        return self.num_samples

    def ids(self, epoch: int, positions: Int64Array) -> Int64Array:
        return positions

    def details(self, epoch: int, position: int) -> dict[str, Any]:
        return {}

    def describe(self) -> str:
        return f"as stored, seed {self.seed}"

    def identity(self) -> dict[str, Any]:
        return {"shuffle": "none", "seed": self.seed}


@dataclass(frozen=True, slots=True, kw_only=True)
class FullShuffle:
    """Every epoch its own permutation of all samples: the best mix, and single reads."""

    num_samples: int
    seed: int = 0

    def __post_init__(self) -> None:
        _check_size(self.num_samples)

    def num_positions(self, epoch: int) -> int:
        return self.num_samples

    def ids(self, epoch: int, positions: Int64Array) -> Int64Array:
        return permute(positions, self.num_samples, (self.seed, epoch))

    def details(self, epoch: int, position: int) -> dict[str, Any]:
        return {}

    def describe(self) -> str:
        return f"shuffle full, seed {self.seed}"

    def identity(self) -> dict[str, Any]:
        return {"shuffle": "full", "seed": self.seed}


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockShuffle:
    """Blocks of neighbours in a random order, and their samples mixed within windows.

    A disk or an object store reads whole blocks; whoever reads ahead holds the window of
    each lane.  How a position finds its sample:

    1. Positions take turns among `lanes`: position p is number p // lanes of lane
       p % lanes.  With a world that divides `lanes` each rank stays within lanes of its own,
       so that no two ranks read the same block.
    2. Each lane is a stretch of the samples with their blocks permuted.
    3. Within a lane each window of `window_blocks` blocks is permuted by itself.

    Worked example: 12 samples, blocks of 2, one lane, windows of 2 blocks.  The blocks
    [0 1] [2 3] [4 5] [6 7] [8 9] [10 11] come as 4 1 5 0 2 3, say, so the first window holds
    8 9 2 3 in any order, the second 10 11 0 1, the third 4 5 6 7.
    """

    num_samples: int
    seed: int = 0
    block_samples: int
    window_blocks: int = 16
    lanes: int = 8
    """Ranks that can each have blocks of their own; a part of the order, not of the run, so
    that any world goes through the same sequence."""

    def __post_init__(self) -> None:
        _check_size(self.num_samples)
        for name in ("block_samples", "window_blocks", "lanes"):
            if getattr(self, name) < 1:
                raise PipelineError(f"{name} is {getattr(self, name)}: give 1 or more")

    def num_positions(self, epoch: int) -> int:
        return self.num_samples

    def ids(self, epoch: int, positions: Int64Array) -> Int64Array:
        if not len(positions):
            return positions
        lane, turn = positions % self.lanes, positions // self.lanes
        shortest, num_longer = divmod(self.num_samples, self.lanes)
        lane_start = lane * shortest + np.minimum(lane, num_longer)
        mixed = self._mixed(epoch, lane, turn, shortest + (lane < num_longer))
        return self._unblocked(epoch, lane_start + mixed)

    def details(self, epoch: int, position: int) -> dict[str, Any]:
        return {}

    def describe(self) -> str:
        return (
            f"shuffle block, seed {self.seed}, blocks of {self.block_samples}, windows of "
            f"{self.window_blocks} blocks in each of {self.lanes} lanes"
        )

    def identity(self) -> dict[str, Any]:
        return {
            "shuffle": "block",
            "seed": self.seed,
            "block_samples": self.block_samples,
            "window_blocks": self.window_blocks,
            "lanes": self.lanes,
        }

    def _mixed(
        self, epoch: int, lane: Int64Array, turn: Int64Array, lane_size: Int64Array
    ) -> Int64Array:
        """The turn of a lane that stands at its turn `turn` once windows are permuted."""
        window_samples = self.window_blocks * self.block_samples
        window = turn // window_samples
        first = window * window_samples
        sizes = np.minimum(window_samples, lane_size - first)
        key = self.seed, epoch
        words = scatter(window * self.lanes + lane, key)
        mixed = np.empty_like(turn)
        for size in np.unique(sizes):  # that of whole windows, and two at most of last ones
            (here,) = np.nonzero(sizes == size)
            mixed[here] = permute(turn[here] - first[here], int(size), key, tweak=words[here])
        return first + mixed

    def _unblocked(self, epoch: int, places: Int64Array) -> Int64Array:
        """Which sample stands at a place once blocks are permuted.

        The last block may be short, wherever it has come to stand: the places behind it
        are counted as if it were whole.
        """
        size = self.block_samples
        num_blocks = -(-self.num_samples // size)
        num_missing = num_blocks * size - self.num_samples
        key = self.seed, epoch
        (last_at,) = unpermute(np.array([num_blocks - 1]), num_blocks, key)
        behind = places >= last_at * size + size - num_missing
        block, within = np.divmod(places + behind * num_missing, size)
        ids: Int64Array = permute(block, num_blocks, key) * size + within
        return ids


def shuffled(
    mode: Mode,
    *,
    num_samples: int,
    seed: int,
    block_samples: int,
    window_blocks: int,
    lanes: int,
) -> EpochSequence:
    """The sequence that `mode` names; the last three are of 'block' alone."""
    if mode == "full":
        return FullShuffle(num_samples=num_samples, seed=seed)
    if mode == "none":
        return Stored(num_samples=num_samples, seed=seed)
    if mode != "block":
        raise PipelineError(f"mode is {mode!r}: give 'full', 'block' or 'none'")
    return BlockShuffle(
        num_samples=num_samples,
        seed=seed,
        block_samples=block_samples,
        window_blocks=window_blocks,
        lanes=lanes,
    )


def _check_size(num_samples: int) -> None:
    if num_samples < 0:
        raise PipelineError(f"num_samples is {num_samples}: give 0 or more")
