"""Proof from the ledgers of a training that every sample was delivered exactly once an epoch.

Reads what `ledger` wrote, of all ranks and all starts.  Invariant: what should have been
delivered is computed from the order alone, never from the records; the two are compared
sample by sample.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from iopipe.errors import NotFoundError, StateError
from iopipe.ledger import SUFFIX, Header, LedgerReader, Record
from iopipe.numbering import Numbering, numbering_of
from iopipe.order import Cursor, Order
from iopipe.plan import SamplePlan
from iopipe.progress import place_of
from iopipe.protocols import Int64Array, Source

_PIECE = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochAudit:
    """One epoch, counted over all ranks and over the starts that made it up."""

    epoch: int
    is_finished: bool
    num_delivered: int
    """Repetitions that the tail's rule asks for included."""
    num_left_out: int
    num_dropped: int
    """By the tail's rule, or with the last batch."""
    missing: Int64Array
    """Ids that should have been delivered and were not."""
    double: Int64Array
    """Ids that were delivered more often than they should have been."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditReport:
    """What the ledgers prove."""

    num_ledgers: int
    num_starts: int
    num_undone: int
    """Records behind the place from which a later start went on: not counted."""
    epochs: tuple[EpochAudit, ...]
    problems: tuple[str, ...]
    """What keeps the ledgers from being a proof, besides missing and double samples."""
    notes: tuple[str, ...]

    @property
    def is_exact(self) -> bool:
        """Every sample exactly once in every epoch that ended, and none twice in the last."""
        wrong = any(len(epoch.missing) or len(epoch.double) for epoch in self.epochs)
        return not wrong and not self.problems


@dataclass(slots=True, kw_only=True)
class _Start:
    """The ledgers that ranks began together."""

    entry: Cursor
    plan: SamplePlan
    header: Header
    readers: dict[int, LedgerReader] = field(default_factory=dict)
    is_undone: bool = False

    def cursor(self, epoch: int) -> Cursor:
        return self.entry if epoch == self.entry.epoch else Cursor(epoch=epoch)

    def key(self) -> tuple[int, int]:
        """Ascending with what has been delivered."""
        return self.entry.epoch, -self.plan.order.num_left(self.entry)


def audit_ledgers(
    paths: Iterable[str | os.PathLike[str]], *, source: Source | None = None
) -> AuditReport:
    """Read ledgers, or folders of them.

    A start that went on from a saved place undoes what earlier ones delivered behind it.
    `source` is the dataset; only runs with `pack` or `bucket` need it, since their order goes
    by the lengths of samples.  Packed sequences are numbered through each epoch.
    Memory: 2 bytes a sample of the dataset, besides the records.
    """
    readers = [LedgerReader(path) for path in _ledgers(paths)]
    numbering = _common_numbering(readers, source)
    starts = _starts(readers, numbering)
    kept = _kept(starts)
    count = _Count(numbering, starts, kept)
    epochs = tuple(count.epoch(epoch) for epoch in iter(count.next_epoch, None))
    return AuditReport(
        num_ledgers=len(readers),
        num_starts=len(starts),
        num_undone=count.num_undone,
        epochs=epochs,
        problems=tuple(count.problems),
        notes=tuple(count.notes()),
    )


def _ledgers(paths: Iterable[str | os.PathLike[str]]) -> list[Path]:
    found: list[Path] = []
    for path in map(Path, paths):
        found += sorted(path.glob(f"*{SUFFIX}")) if path.is_dir() else [path]
    if not found:
        raise NotFoundError(f"there are no ledgers (*{SUFFIX}) in {[os.fspath(p) for p in paths]}")
    return found


def _common_numbering(readers: Sequence[LedgerReader], source: Source | None) -> Numbering:
    first = readers[0].header
    for reader in readers[1:]:
        other = reader.header
        differences = [
            f"{name} is {_flat(other).get(name)!r} in {reader.path!r} and {value!r} in "
            f"{readers[0].path!r}"
            for name, value in _flat(first).items()
            if _flat(other).get(name) != value
        ]
        if differences:
            raise StateError(f"the ledgers are not of one training: {'; '.join(differences)}")
    return numbering_of(first.identity, first.num_samples, source)


def _flat(header: Header) -> dict[str, Any]:
    return {**header.identity, "num_samples": header.num_samples}


def _starts(readers: Sequence[LedgerReader], numbering: Numbering) -> list[_Start]:
    """Ledgers of one entry and world belong to one start, until a rank comes again."""
    starts: list[_Start] = []
    for reader in sorted(readers, key=lambda reader: reader.header.started_ns):
        header = reader.header
        shape = (header.entry, header.world, header.tail, header.batch_size, header.drop_last)
        for start in reversed(starts):
            one = start.header
            same = (one.entry, one.world, one.tail, one.batch_size, one.drop_last) == shape
            if same and header.rank not in start.readers:
                start.readers[header.rank] = reader
                break
        else:
            starts.append(_start(reader, numbering))
    return starts


def _start(reader: LedgerReader, numbering: Numbering) -> _Start:
    header = reader.header
    plan = SamplePlan(
        order=Order(sequence=numbering.sequence, world=header.world, tail=header.tail),  # type: ignore[arg-type]
        batch_size=header.batch_size,
        drop_last=header.drop_last,
        chunk_samples=1,
        end_epoch=None,
    )
    entry = numbering.cursor(place_of(header.entry))
    return _Start(entry=entry, plan=plan, header=header, readers={header.rank: reader})


def _kept(starts: Sequence[_Start]) -> list[_Start]:
    """Those that later ones did not undo wholly, their entries ascending."""
    kept: list[_Start] = []
    for start in starts:
        while kept and kept[-1].key() >= start.key():
            kept.pop().is_undone = True
        kept.append(start)
    return kept


class _Count:
    """Goes through all ledgers side by side, epoch by epoch."""

    def __init__(
        self,
        numbering: Numbering,
        starts: Sequence[_Start],
        kept: Sequence[_Start],
    ) -> None:
        self._sequence = numbering.sequence
        self._num_ids = numbering.num_ids
        self._kept = kept
        self._streams = [
            _Stream(start, rank, reader, numbering, kept[kept.index(start) + 1 :])
            for start in kept
            for rank, reader in sorted(start.readers.items())
        ]
        self._num_undone = sum(
            sum(1 for _ in reader.records())
            for start in starts
            if start.is_undone
            for reader in start.readers.values()
        )
        self.problems = [
            f"the start of {start.header.world} ranks at {_words(start.entry)} left ledgers of "
            f"ranks {sorted(start.readers)} only"
            for start in kept
            if len(start.readers) < start.header.world
        ]
        self._ragged: list[str] = []

    @property
    def num_undone(self) -> int:
        """Of starts that were undone wholly or in part, as far as the ledgers have been read."""
        return self._num_undone + sum(stream.num_undone for stream in self._streams)

    def next_epoch(self) -> int | None:
        """The lowest epoch that records or entries are left of; None at the end."""
        epochs = [stream.epoch for stream in self._streams if stream.epoch is not None]
        return min(epochs, default=None)

    def epoch(self, epoch: int) -> EpochAudit:
        difference = np.zeros(self._num_ids(epoch), np.int16)
        counts = {"delivered": 0, "left_out": 0}
        last = [start for start in self._kept if start.entry.epoch <= epoch][-1]
        turns: dict[int, list[tuple[int, int]]] = {rank: [] for rank in last.readers}
        for stream in self._streams:
            for record in stream.of_epoch(epoch):
                np.add.at(difference, record.ids, 1)
                np.add.at(difference, record.left_out, 1)
                np.subtract.at(difference, stream.repeated(record), 1)
                counts["delivered"] += len(record.ids)
                counts["left_out"] += len(record.left_out)
                if stream.start is last:
                    turns[stream.rank].append((record.first, record.first + record.num_planned))
        is_finished = self._is_finished(epoch, last, turns)
        num_dropped = 0
        if is_finished:
            num_dropped = self._expect_whole(difference, epoch, last)
        else:
            self._expect_part(difference, epoch, last, turns)
        return EpochAudit(
            epoch=epoch,
            is_finished=is_finished,
            num_delivered=counts["delivered"],
            num_left_out=counts["left_out"],
            num_dropped=num_dropped,
            missing=np.flatnonzero(difference < 0),
            double=np.flatnonzero(difference > 0),
        )

    def notes(self) -> Iterator[str]:
        yield from self._ragged
        for stream in self._streams:
            if torn := stream.reader.num_torn_bytes:
                yield f"{stream.reader.path!r} ends within a record: {torn} bytes are not counted"

    # ---- what should have been delivered ---------------------------------------------

    def _is_finished(
        self, epoch: int, last: _Start, turns: dict[int, list[tuple[int, int]]]
    ) -> bool:
        if self.next_epoch() is not None or any(one.entry.epoch > epoch for one in self._kept):
            return True
        wanted = last.plan.num_samples(last.cursor(epoch))
        return all(sum(b - a for a, b in parts) >= wanted for parts in turns.values())

    def _expect_whole(self, difference: npt.NDArray[np.int16], epoch: int, last: _Start) -> int:
        """All positions from where the ledgers begin, less those that the last start drops; how
        many it drops."""
        cursor = last.cursor(epoch)
        order = last.plan.order
        num_turns = last.plan.num_samples(cursor) * order.world
        num_left = order.num_left(cursor)
        alone = Order(sequence=self._sequence)
        self._expect(difference, alone, self._begin(epoch), None)
        self._add(difference, alone, cursor, range(num_turns, num_left), 1)
        return max(num_left - num_turns, 0)

    def _expect_part(
        self,
        difference: npt.NDArray[np.int16],
        epoch: int,
        last: _Start,
        turns: dict[int, list[tuple[int, int]]],
    ) -> None:
        """What lies before the last start's entry, and the turns that its ranks took."""
        cursor, world = last.cursor(epoch), last.header.world
        self._expect(difference, Order(sequence=self._sequence), self._begin(epoch), cursor)
        for rank, parts in turns.items():
            order = Order(sequence=self._sequence, rank=rank, world=world, tail="pad")
            for first, end in parts:
                num_valid = order.num_valid(cursor, first, end)
                self._add(difference, order, cursor, range(first, first + num_valid), -1)
        done = {rank: sum(b - a for a, b in parts) for rank, parts in turns.items()}
        if len(set(done.values())) > 1:
            self._ragged.append(f"epoch {epoch} ended with samples by rank: {done}")

    def _begin(self, epoch: int) -> Cursor:
        """Where in the epoch the ledgers begin to count."""
        first = self._kept[0]
        return first.entry if first.entry.epoch == epoch else Cursor(epoch=epoch)

    def _expect(
        self, difference: npt.NDArray[np.int16], alone: Order, begin: Cursor, end: Cursor | None
    ) -> None:
        """Take off each position from `begin` on that is not left at `end`."""
        for first in range(0, alone.num_left(begin), _PIECE):
            piece = min(first + _PIECE, alone.num_left(begin))
            positions = alone.positions(begin, first, piece)
            if end is not None:
                left = (positions >= end.position) | np.isin(positions, end.pending)
                positions = positions[~left]
            np.subtract.at(difference, self._sequence.ids(begin.epoch, positions), 1)

    def _add(
        self,
        difference: npt.NDArray[np.int16],
        order: Order,
        cursor: Cursor,
        turns: range,
        amount: int,
    ) -> None:
        for first in range(turns.start, turns.stop, _PIECE):
            ids = order.ids(cursor, first, min(first + _PIECE, turns.stop))
            np.add.at(difference, ids, amount)


class _Stream:
    """The counted records of one ledger, epoch by epoch."""

    def __init__(
        self,
        start: _Start,
        rank: int,
        reader: LedgerReader,
        numbering: Numbering,
        later: Sequence[_Start],
    ) -> None:
        self.start = start
        self.rank = rank
        self.reader = reader
        self.num_undone = 0
        self._order = Order(
            sequence=start.plan.order.sequence, rank=rank, world=start.header.world, tail="pad"
        )
        self._entries = [one.entry for one in later]
        self._records = map(numbering.record, reader.records())
        self._record = self._next()

    @property
    def epoch(self) -> int | None:
        return None if self._record is None else self._record.epoch

    def of_epoch(self, epoch: int) -> Iterator[Record]:
        while self._record is not None and self._record.epoch == epoch:
            yield self._record
            self._record = self._next()

    def repeated(self, record: Record) -> Int64Array:
        """The samples of a record that `tail='wrap'` delivers once more."""
        if self.start.header.tail != "wrap":
            return record.ids[:0]
        cursor = self.start.cursor(record.epoch)
        end = record.first + record.num_planned
        num_valid = self._order.num_valid(cursor, record.first, end)
        return self._order.ids(cursor, record.first + num_valid, end)

    def _next(self) -> Record | None:
        for record in self._records:
            if all(self._is_before(record, entry) for entry in self._entries):
                return record
            self.num_undone += 1
        return None

    def _is_before(self, record: Record, entry: Cursor) -> bool:
        """Whether the state that was saved at `entry` knew of this record."""
        if record.epoch != entry.epoch:
            return record.epoch < entry.epoch
        if self.start.header.in_order and not entry.pending:
            return record.position <= entry.position
        cursor = self.start.cursor(record.epoch)
        num_valid = self._order.num_valid(cursor, record.first, record.first + record.num_planned)
        positions = self._order.positions(cursor, record.first, record.first + num_valid)
        late = (positions >= entry.position) | np.isin(positions, entry.pending)
        return not late.any()


def _words(cursor: Cursor) -> str:
    return f"epoch {cursor.epoch}, position {cursor.position}"
