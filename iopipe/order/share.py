"""Each rank's share of an epoch, and the place where all of them stand.

Stands between the sequence of an epoch and the plan of a run.  Invariant: ranks only take
turns, so that a place in the epoch is the same for any number of them, and after the same
number of steps they stand at the same place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from iopipe.errors import PipelineError, StateError
from iopipe.order.shuffles import EpochSequence
from iopipe.protocols import Int64Array

Tail: TypeAlias = Literal["drop", "wrap", "pad"]
_TAILS = ("drop", "wrap", "pad")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cursor:
    """A place at a batch boundary: plain integers, independent of ranks and threads."""

    epoch: int = 0
    position: int = 0
    """Samples of the epoch before this position have been delivered, by all ranks together."""
    pending: tuple[int, ...] = ()
    """Positions before `position` that have not, ascending: where batches were delivered out
    of order.  They come first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """The samples of one rank, epoch by epoch.

    From a cursor on, what is left of the epoch is a list of positions: those pending, then
    the rest.  Rank r of `world` takes turns r, r + world, and so on: every rank gets the
    same number, and a step of all ranks takes the next turns in a row.
    """

    sequence: EpochSequence
    rank: int = 0
    world: int = 1
    """Ranks that share the epoch."""
    tail: Tail = "drop"
    """What becomes of the last turns when they do not go round: 'drop' leaves them out;
    'wrap' and 'pad' complete them from the beginning of the epoch's sequence, 'wrap' for one
    turn each, 'pad' for whole batches, with a mask that tells the true samples."""

    def __post_init__(self) -> None:
        if self.world < 1 or not 0 <= self.rank < self.world:
            raise PipelineError(
                f"rank {self.rank} of world {self.world}: give a world of 1 or more and a rank "
                "from 0 to world - 1"
            )
        if self.tail not in _TAILS:
            raise PipelineError(f"tail is {self.tail!r}: give 'drop', 'wrap' or 'pad'")

    def num_left(self, cursor: Cursor) -> int:
        """Positions of the epoch that are to come, for all ranks together."""
        num_positions = self.sequence.num_positions(cursor.epoch)
        if not 0 <= cursor.position <= num_positions:
            raise StateError(
                f"position {cursor.position} lies outside an epoch of {num_positions} samples: "
                "the state was saved with other data"
            )
        if cursor.pending and not 0 <= cursor.pending[0] <= cursor.pending[-1] < cursor.position:
            raise StateError(
                f"positions {cursor.pending[0]} to {cursor.pending[-1]} cannot be pending before "
                f"position {cursor.position}; take the state from the same data"
            )
        return len(cursor.pending) + num_positions - cursor.position

    def num_local(self, cursor: Cursor, *, batch_size: int = 1) -> int:
        """Samples that each rank gets from `cursor` to the end of its epoch."""
        num_left = self.num_left(cursor)
        if self.tail == "drop":
            return num_left // self.world
        step = self.world * batch_size if self.tail == "pad" else self.world
        return -(-num_left // step) * step // self.world

    def ids(self, cursor: Cursor, first: int, last: int) -> Int64Array:
        """This rank's samples `first` to `last` - 1, counted from `cursor`."""
        num_local = self.num_local(cursor)
        if not 0 <= first <= last or (last > num_local and self.tail != "pad"):
            raise IndexError(f"samples {first} to {last} asked for, this rank has {num_local}")
        return self.sequence.ids(cursor.epoch, self.positions(cursor, first, last))

    def num_valid(self, cursor: Cursor, first: int, last: int) -> int:
        """How many of `ids(cursor, first, last)`, from the first on, are no repetition."""
        num_own = -(-(self.num_left(cursor) - self.rank) // self.world)
        return min(max(num_own - first, 0), last - first)

    def after(self, cursor: Cursor, num_local: int) -> Cursor:
        """Where the epoch stands once every rank took so many samples from `cursor` on."""
        turns = min(num_local * self.world, self.num_left(cursor))
        num_behind = max(turns - len(cursor.pending), 0)
        return Cursor(
            epoch=cursor.epoch,
            position=cursor.position + num_behind,
            pending=cursor.pending[turns:],
        )

    def positions(self, cursor: Cursor, first: int, last: int) -> Int64Array:
        """Where in the epoch's sequence the samples of `ids(cursor, first, last)` stand."""
        turns = self.rank + self.world * np.arange(first, last, dtype=np.int64)
        num_left, num_pending = self.num_left(cursor), len(cursor.pending)
        positions = turns - num_pending + cursor.position
        if num_pending and len(turns) and turns[0] < num_pending:
            early = turns < num_pending
            positions[early] = np.array(cursor.pending, np.int64)[turns[early]]
        if len(turns) and turns[-1] >= num_left:
            again = turns >= num_left
            num_positions = max(self.sequence.num_positions(cursor.epoch), 1)
            positions[again] = (turns[again] - num_left) % num_positions
        return positions
