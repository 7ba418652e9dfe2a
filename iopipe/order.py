"""Which sample comes when: pure arithmetic from (seed, epoch, position) to a sample id.

Stands before the plan.  Invariant: O(1) state and memory; the epoch's sequence of ids does
not know of ranks, workers or threads, which only take turns along it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from iopipe.errors import PipelineError
from iopipe.protocols import Int64Array

_NUM_ROUNDS = 10
_MIN_BITS = 6
"""With halves of two bits or fewer some permutations of a handful of items never come up
(chi-square over all permutations of 3 to 5 items; three bits and more pass)."""
_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


def permute(positions: Int64Array, num_items: int, *, seed: int, epoch: int) -> Int64Array:
    """The ids that stand at `positions` of the permutation of [0, num_items) named by
    (seed, epoch).

    A Feistel network over the smallest power of two that holds `num_items`, walked until
    it lands inside (fewer than two turns on average).  Every turn is a bijection, so the
    whole is one.  Sources: J. Black, P. Rogaway, Ciphers with Arbitrary Finite Domains,
    CT-RSA 2002 (cycle walking); R. Mitchell et al., Bandwidth-Optimal Random Shuffling for
    GPUs, ACM TOPC 2022 (the same as a shuffle); S. Vigna's and D. Stafford's variant 13 of
    the 64-bit murmur finaliser as round function.
    """
    num_bits = max(_MIN_BITS, (num_items - 1).bit_length())
    keys = _round_keys(seed, epoch)
    values = positions.astype(np.uint64)
    outside = np.arange(len(values))
    while len(outside):
        values[outside] = _feistel(values[outside], num_bits, keys)
        outside = outside[values[outside] >= num_items]
    return values.astype(np.int64)


def _feistel(
    values: npt.NDArray[np.uint64], num_bits: int, keys: list[np.uint64]
) -> npt.NDArray[np.uint64]:
    """One turn: halves of (nearly) equal width, each mixed into the other in alternation."""
    low_bits = np.uint64(num_bits // 2)
    low_mask = np.uint64((1 << (num_bits // 2)) - 1)
    high_mask = np.uint64((1 << (num_bits - num_bits // 2)) - 1)
    high, low = values >> low_bits, values & low_mask
    for number, key in enumerate(keys):
        if number % 2:
            low ^= _mixed(high ^ key) & low_mask
        else:
            high ^= _mixed(low ^ key) & high_mask
    return (high << low_bits) | low


def _mixed(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    # The high bits are the well mixed ones; the halves keep the low ones.
    return (values ^ (values >> np.uint64(31))) >> np.uint64(16)


def _round_keys(seed: int, epoch: int) -> list[np.uint64]:
    state = _mixed_int((seed & _MASK) ^ _mixed_int(epoch + _GOLDEN))
    return [np.uint64(_mixed_int(state + _GOLDEN * turn)) for turn in range(1, _NUM_ROUNDS + 1)]


def _mixed_int(value: int) -> int:
    """splitmix64's output function on Python integers (G. Steele et al., OOPSLA 2014)."""
    value &= _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """The sequence of an epoch, and one rank's share of it.

    An epoch that is entered at global position `start` gives rank r the positions
    start + r, start + r + world, ...  After the same number of samples on every rank, what
    is consumed is again one prefix of the sequence: a saved position is a plain integer,
    and any number of ranks can go on from it.
    """

    num_samples: int
    seed: int = 0
    shuffle: Literal["full", "none"] = "full"
    rank: int = 0
    world: int = 1
    tail: Literal["drop", "wrap"] = "drop"
    """What fills the last turn when `world` does not divide the samples: 'drop' leaves the
    rest out of this epoch, 'wrap' goes on with the first samples of the sequence."""

    def __post_init__(self) -> None:
        if self.num_samples < 0:
            raise PipelineError(f"num_samples is {self.num_samples}; it must not be negative")
        if self.world < 1 or not 0 <= self.rank < self.world:
            raise PipelineError(
                f"rank {self.rank} of {self.world} does not exist; give 0 <= rank < world"
            )
        if self.shuffle not in ("full", "none") or self.tail not in ("drop", "wrap"):
            raise PipelineError(
                f"shuffle {self.shuffle!r} or tail {self.tail!r} is unknown; use shuffle "
                "'full' or 'none', tail 'drop' or 'wrap'"
            )

    def num_local(self, start: int = 0) -> int:
        """Samples that each rank gets from an epoch entered at `start`; equal on all."""
        rest = max(0, self.num_samples - start)
        return rest // self.world if self.tail == "drop" else -(-rest // self.world)

    def position(self, start: int, num_consumed: int) -> int:
        """The global position when each rank has consumed `num_consumed` since `start`."""
        return min(start + num_consumed * self.world, self.num_samples)

    def ids(self, epoch: int, start: int, first: int, last: int) -> Int64Array:
        """This rank's samples number first .. last-1 since it entered the epoch at `start`."""
        positions = start + np.arange(first, last, dtype=np.int64) * self.world + self.rank
        positions %= max(1, self.num_samples)
        if self.shuffle == "none":
            return positions
        return permute(positions, self.num_samples, seed=self.seed, epoch=epoch)
