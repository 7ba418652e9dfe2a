"""Documents to sequences of one length: which piece of which document goes where.

Stands between the order of documents and the reading of them.  Invariant: pure arithmetic on
lengths; every token of every document has one place, and the same one on every rank.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from iopipe.errors import PipelineError, StateError
from iopipe.order import Cursor, EpochSequence, Order
from iopipe.plan import Task, epoch_by_epoch
from iopipe.protocols import Int64Array

Method: TypeAlias = Literal["concat", "best_fit"]

_GROUP_BITS, _INDEX_BITS = 31, 20
_MAX_EPOCH = 1 << (63 - _GROUP_BITS - _INDEX_BITS)
_GROUP_SHIFT = 32
_RECENT_GROUPS = 16
_RECENT_ENTRIES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Pieces:
    """Stretches of documents in the sequences of one group; all int64 [p], by sequence and
    column."""

    document: Int64Array
    """Its place in the group."""
    start: Int64Array
    """Where in the document the piece begins."""
    length: Int64Array
    sequence: Int64Array
    column: Int64Array
    """Where in the sequence the piece begins."""
    num_sequences: int

    def of(self, sequence: int) -> slice:
        """The pieces of one sequence."""
        first, last = np.searchsorted(self.sequence, [sequence, sequence + 1])
        return slice(int(first), int(last))


@dataclass(frozen=True, slots=True, kw_only=True)
class Packing:
    """How documents are packed."""

    sequence_length: int
    method: Method = "best_fit"
    look_ahead: int = 1024
    """Documents that are packed together: more waste less and make a resume slower."""

    def __post_init__(self) -> None:
        if self.method not in ("concat", "best_fit"):
            raise PipelineError(f"method is {self.method!r}: give 'concat' or 'best_fit'")
        for name in ("sequence_length", "look_ahead"):
            if getattr(self, name) < 1:
                raise PipelineError(f"{name} is {getattr(self, name)}: give 1 or more")


def pack_group(lengths: Int64Array, packing: Packing) -> Pieces:
    """Pack documents of these lengths (int64 [n], tokens).

    'concat' lays them end to end and cuts at every `sequence_length`: at most the last
    sequence has padding.  'best_fit' cuts only what is longer than a sequence, and puts the
    rest, the longest first, each where the least room is left that is enough (best-fit
    decreasing; Ding et al. 2024, Fewer Truncations Improve Language Modeling).
    """
    if packing.method == "concat":
        return _concatenated(lengths, packing.sequence_length)
    return _best_fit(lengths, packing.sequence_length)


def _concatenated(lengths: Int64Array, size: int) -> Pieces:
    ends = np.cumsum(lengths)
    begins = ends - lengths
    cuts = np.arange(0, int(ends[-1]) if len(ends) else 0, size)
    # Pieces begin where documents or sequences do.
    starts = np.unique(np.concatenate([begins[lengths > 0], cuts]))
    document = np.searchsorted(ends, starts, side="right")
    stops = np.append(starts[1:], ends[-1:] if len(starts) else [])
    return Pieces(
        document=document,
        start=starts - begins[document],
        length=stops - starts,
        sequence=starts // size,
        column=starts % size,
        num_sequences=len(cuts),
    )


def _best_fit(lengths: Int64Array, size: int) -> Pieces:
    num_whole = lengths // size
    whole = np.repeat(np.arange(len(lengths)), num_whole)
    before = np.repeat(np.cumsum(num_whole) - num_whole, num_whole)
    rest = lengths - num_whole * size
    order = np.argsort(-rest, kind="stable")
    order = order[rest[order] > 0]
    first = len(whole)
    bins, columns, num_bins = _placed(rest[order].tolist(), size)
    sequence = np.concatenate([np.arange(first), first + np.array(bins, np.int64)])
    column = np.concatenate([np.zeros(first, np.int64), np.array(columns, np.int64)])
    by_place = np.lexsort((column, sequence))
    return Pieces(
        document=np.concatenate([whole, order])[by_place],
        start=np.concatenate([(np.arange(first) - before) * size, (num_whole * size)[order]])[
            by_place
        ],
        length=np.concatenate([np.full(first, size), rest[order]])[by_place],
        sequence=sequence[by_place],
        column=column[by_place],
        num_sequences=first + num_bins,
    )


def _placed(lengths: list[int], size: int) -> tuple[list[int], list[int], int]:
    """(bin, column in it) of each length, and the number of bins.

    `rooms` has a bit for each room that some open bin has left: the least that is enough is
    the lowest bit from the length on.
    """
    bins, columns = [], []
    with_room: dict[int, list[int]] = {}
    rooms = num_bins = 0
    for length in lengths:
        enough = rooms >> length
        if enough:
            room = length + (enough & -enough).bit_length() - 1
            here = with_room[room].pop()
            if not with_room[room]:
                rooms ^= 1 << room
        else:
            room, here = size, num_bins
            num_bins += 1
        bins.append(here)
        columns.append(size - room)
        left = room - length
        if left:
            same = with_room.setdefault(left, [])
            if not same:
                rooms |= 1 << left
            same.append(here)
    return bins, columns, num_bins


def packed_id(epoch: int, group: int, index: int) -> int:
    """A sequence's number: 12 bits of epoch, 31 of group, 20 of its place in the group."""
    if epoch >= _MAX_EPOCH or group >> _GROUP_BITS or index >> _INDEX_BITS:
        raise PipelineError(
            f"sequence {index} of group {group} in epoch {epoch} has no number: there are "
            f"{_MAX_EPOCH} epochs, 2**{_GROUP_BITS} groups and 2**{_INDEX_BITS} sequences a group"
        )
    return (epoch << _GROUP_BITS | group) << _INDEX_BITS | index


def unpacked_id(number: int) -> tuple[int, int, int]:
    """(epoch, group, index) of a sequence."""
    index = number & ((1 << _INDEX_BITS) - 1)
    group = number >> _INDEX_BITS & ((1 << _GROUP_BITS) - 1)
    return number >> (_INDEX_BITS + _GROUP_BITS), group, index


class Groups:
    """The groups of every epoch, packed when they are asked for; thread-safe."""

    def __init__(
        self,
        sequence: EpochSequence,
        lengths: Callable[[Int64Array], Int64Array],
        packing: Packing,
    ) -> None:
        """`lengths` gives the tokens of documents by id, without reading them."""
        self.sequence = sequence
        self.packing = packing
        self._lengths = lengths
        self._recent: dict[tuple[int, int], tuple[Int64Array, Pieces]] = {}
        self._lock = threading.Lock()

    def num_groups(self, epoch: int) -> int:
        return -(-self.sequence.num_positions(epoch) // self.packing.look_ahead)

    def group(self, epoch: int, number: int) -> tuple[Int64Array, Pieces]:
        """(ids of its documents, its pieces)."""
        with self._lock:
            if (found := self._recent.get((epoch, number))) is not None:
                return found
        first = number * self.packing.look_ahead
        last = min(first + self.packing.look_ahead, self.sequence.num_positions(epoch))
        ids = self.sequence.ids(epoch, np.arange(first, last, dtype=np.int64))
        made = ids, pack_group(self._lengths(ids), self.packing)
        with self._lock:
            self._recent[epoch, number] = made
            while len(self._recent) > _RECENT_GROUPS:
                del self._recent[next(iter(self._recent))]
        return made


class PackedPlan:
    """Sequences of packed documents, batch by batch; ranks take turns on them.

    A cursor's position is group * 2**32 + the sequence's place in it.  Every rank packs
    every group, from lengths alone, so that all know where an epoch ends.
    """

    def __init__(
        self,
        order: Order,
        groups: Groups,
        *,
        batch_size: int | None,
        drop_last: bool,
        chunk_samples: int,
        end_epoch: int | None,
    ) -> None:
        if drop_last and order.tail == "pad":
            raise PipelineError(
                "tail='pad' fills up the last batch and drop_last leaves it out: give one of them"
            )
        self.order = order
        self.end_epoch = end_epoch
        self._groups = groups
        self._batch_size = batch_size
        self._drops = drop_last and batch_size is not None
        self._chunk_samples = chunk_samples
        self._lock = threading.Lock()
        self._counts: dict[Cursor, _Count] = {}

    def tasks(self, cursor: Cursor) -> Iterator[Task]:
        return epoch_by_epoch(self._epoch, cursor, end_epoch=self.end_epoch)

    def after(self, entry: Cursor, num_samples: int) -> Cursor:
        count = self._count(entry)
        more = self._batch_size or 1 if self._drops else 1
        if not count.has((num_samples + more) * self.order.world):
            if num_samples >= self.num_samples(entry):
                return Cursor(epoch=entry.epoch + 1)
        return Cursor(epoch=entry.epoch, position=self.position_after(entry, num_samples))

    def position_after(self, entry: Cursor, num_samples: int) -> int:
        count, turn = self._count(entry), num_samples * self.order.world
        group, index = count.place(turn if count.has(turn) else count.num_turns())
        return group << _GROUP_SHIFT | index

    def num_batches(self, cursor: Cursor) -> int:
        """Packs the rest of the epoch, at some microseconds a document."""
        size = self._batch_size or self._chunk_samples
        num_samples = self.num_samples(cursor)
        return num_samples // size if self._drops else -(-num_samples // size)

    def num_samples(self, cursor: Cursor) -> int:
        """Of this rank, from `cursor` to the end of its epoch."""
        size = self._batch_size or 1
        world = self.order.world
        num_left = self._count(cursor).num_turns()
        if self.order.tail == "drop":
            num_samples = num_left // world
        else:
            step = world * (size if self.order.tail == "pad" else 1)
            num_samples = -(-num_left // step) * step // world
        return num_samples - num_samples % size if self._drops else num_samples

    def identity(self) -> dict[str, Any]:
        packing = self._groups.packing
        return {
            **self.order.sequence.identity(),
            "pack": {
                "sequence_length": packing.sequence_length,
                "method": packing.method,
                "look_ahead": packing.look_ahead,
            },
        }

    def share(self) -> dict[str, Any]:
        return {
            "rank": self.order.rank,
            "world": self.order.world,
            "tail": self.order.tail,
            "batch_size": self._batch_size,
            "drop_last": self._drops,
        }

    def check(self, cursor: Cursor) -> None:
        group, index = split_position(cursor.position)
        num_groups = self._groups.num_groups(cursor.epoch)
        if cursor.pending or group > num_groups or (group == num_groups and index):
            raise StateError(
                f"position {cursor.position} lies outside an epoch of {num_groups} groups of "
                "packed documents: the state was saved with other data"
            )

    def details(self, cursor: Cursor) -> dict[str, Any]:
        """Where the group begins whose sequences come next."""
        sequence, (group, _) = self._groups.sequence, split_position(cursor.position)
        begin = group * self._groups.packing.look_ahead
        return sequence.details(cursor.epoch, min(begin, sequence.num_positions(cursor.epoch)))

    # ---- the stream of sequences -----------------------------------------------------

    def _epoch(self, entry: Cursor) -> Iterator[Task]:
        size = self._batch_size or self._chunk_samples
        first, count = 0, self._count(entry)
        while count.has((first + size) * self.order.world):
            yield from self._batch(entry, first, size)
            first += size
        for start in range(first, self.num_samples(entry), size):
            yield from self._batch(entry, start, min(size, self.num_samples(entry) - start))

    def _batch(self, entry: Cursor, first: int, num_rows: int) -> Iterator[Task]:
        for row in range(0, num_rows, self._chunk_samples):
            num = min(self._chunk_samples, num_rows - row)
            turns = self.order.rank + self.order.world * np.arange(first + row, first + row + num)
            numbers = [self._number(entry, turn) for turn in turns.tolist()]
            yield Task(
                entry=entry,
                first=first + row,
                ids=np.array([number for number, _ in numbers], np.int64),
                num_valid=sum(is_new for _, is_new in numbers),
                row=row,
                num_batch_rows=num_rows,
            )

    def _number(self, entry: Cursor, turn: int) -> tuple[int, bool]:
        """(the sequence at a turn, whether it is none of those that fill up the end)."""
        count = self._count(entry)
        is_new = count.has(turn + 1)
        if not is_new:
            whole = self._count(Cursor(epoch=entry.epoch))
            turn = (turn - count.num_turns()) % whole.num_turns()
            count = whole
        return packed_id(entry.epoch, *count.place(turn)), is_new

    def _count(self, entry: Cursor) -> _Count:
        with self._lock:
            if entry not in self._counts:
                self._counts[entry] = _Count(self._groups, entry)
                while len(self._counts) > _RECENT_ENTRIES:
                    del self._counts[next(iter(self._counts))]
            return self._counts[entry]


class _Count:
    """How many sequences there are from a cursor on, counted no further than is asked for."""

    def __init__(self, groups: Groups, entry: Cursor) -> None:
        self._groups = groups
        self._entry = entry
        self._first, self._index = split_position(entry.position)
        self._starts = [0]
        """Turns before each group from that of `entry` on; the last one: before what is next."""
        self._lock = threading.Lock()

    def has(self, num_turns: int) -> bool:
        """Whether there are so many turns."""
        with self._lock:
            while self._starts[-1] < num_turns:
                number = self._first + len(self._starts) - 1
                if number >= self._groups.num_groups(self._entry.epoch):
                    return False
                found = self._groups.group(self._entry.epoch, number)[1].num_sequences
                skipped = self._index if number == self._first else 0
                self._starts.append(self._starts[-1] + found - skipped)
            return True

    def num_turns(self) -> int:
        """All of them: packs the rest of the epoch."""
        self.has(1 << 62)
        return self._starts[-1]

    def place(self, turn: int) -> tuple[int, int]:
        """(group, place in it) of a turn, or of the end where it is the first too many."""
        self.has(turn + 1)
        with self._lock:
            number = min(bisect_right(self._starts, turn), len(self._starts)) - 1
            within = turn - self._starts[number]
        return self._first + number, within + (self._index if number == 0 else 0)


def split_position(position: int) -> tuple[int, int]:
    """(group, place in it) of a position of packed sequences."""
    return position >> _GROUP_SHIFT, position & ((1 << _GROUP_SHIFT) - 1)


def padding_share(groups: Groups, epoch: int = 0, *, num_groups: int = 64) -> float:
    """Which part of the places in sequences holds no token; judged by the first groups."""
    tokens = places = 0
    for number in range(min(num_groups, groups.num_groups(epoch))):
        _, pieces = groups.group(epoch, number)
        tokens += int(pieces.length.sum())
        places += pieces.num_sequences * groups.packing.sequence_length
    return 1 - tokens / places if places else 0.0
