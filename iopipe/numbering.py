"""What the numbers in a ledger stand for, so that an audit can count them.

Stands between a ledger and its audit.  Invariant: an epoch is a sequence of ids, each of which
is delivered once; what else a run writes down (cursors, records) is given in these terms.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Protocol

import numpy as np

from iopipe.errors import DataError, StateError
from iopipe.ledger import Record
from iopipe.order import Cursor, EpochSequence
from iopipe.order.bucketing import Bucketed
from iopipe.order.restore import restore_sequence
from iopipe.packing import Groups, Packing, split_position, unpacked_id
from iopipe.protocols import Int64Array, Source


class Numbering(Protocol):
    """How the records of one training are counted."""

    @property
    def sequence(self) -> EpochSequence:
        """Which id stands at which position of an epoch."""
        ...

    def num_ids(self, epoch: int) -> int:
        """All ids of an epoch are below it."""
        ...

    def cursor(self, cursor: Cursor) -> Cursor:
        """A place as a run has it, by the position in `sequence`."""
        ...

    def record(self, record: Record) -> Record:
        """A record as a run has it, by ids and positions of `sequence`."""
        ...


def numbering_of(identity: Mapping[str, Any], num_samples: int, source: Source | None) -> Numbering:
    """`source` is needed where samples were put together by their lengths."""
    sequence = restore_sequence(identity, num_samples)
    if not {"bucket", "pack"} & set(identity):
        return SampleNumbering(sequence, num_samples)
    lengths = _lengths(identity, source)
    if bucket := identity.get("bucket"):
        sequence = Bucketed(inner=sequence, lengths=lambda ids: lengths[ids], **bucket)
    if pack := identity.get("pack"):
        return SequenceNumbering(Groups(sequence, lambda ids: lengths[ids], Packing(**pack)))
    return SampleNumbering(sequence, num_samples)


def _lengths(identity: Mapping[str, Any], source: Source | None) -> Int64Array:
    if source is None:
        raise StateError(
            "these runs put samples together by their lengths, which their ledgers do not hold: "
            "give the dataset (`iopipe audit LEDGER... --data DATASET`)"
        )
    if source.digest != identity["dataset"]:
        raise StateError(
            f"the ledgers belong to the dataset {identity['dataset']}, given is {source.digest}"
        )
    lengths: Int64Array | None = getattr(source, "lengths", None)
    if lengths is None:
        raise StateError(
            "this dataset does not say how long its samples are: open it as the runs did, and "
            "call iopipe.audit_ledgers(ledgers, source=...)"
        )
    return lengths


@dataclass(frozen=True, slots=True)
class SampleNumbering:
    """Samples by their own ids."""

    sequence: EpochSequence
    num_samples: int

    def num_ids(self, epoch: int) -> int:
        return self.num_samples

    def cursor(self, cursor: Cursor) -> Cursor:
        return cursor

    def record(self, record: Record) -> Record:
        return record


class SequenceNumbering:
    """Packed sequences, numbered through each epoch from 0 on.

    It packs every epoch wholly, at some microseconds a document.
    """

    def __init__(self, groups: Groups) -> None:
        self.sequence = _InPackedOrder(groups)

    def num_ids(self, epoch: int) -> int:
        return self.sequence.num_positions(epoch)

    def cursor(self, cursor: Cursor) -> Cursor:
        return replace(cursor, position=self._position(cursor.epoch, cursor.position))

    def record(self, record: Record) -> Record:
        return replace(
            record,
            position=self._position(record.epoch, record.position),
            ids=self._numbers(record.epoch, record.ids),
            left_out=self._numbers(record.epoch, record.left_out),
        )

    def _position(self, epoch: int, position: int) -> int:
        group, index = split_position(position)
        starts = self.sequence.starts(epoch)
        if group >= len(starts):
            raise DataError(f"a ledger names group {group} of {len(starts) - 1}")
        return int(starts[group]) + index

    def _numbers(self, epoch: int, ids: Int64Array) -> Int64Array:
        starts = self.sequence.starts(epoch)
        numbers = []
        for packed in ids.tolist():
            of_epoch, group, index = unpacked_id(packed)
            if of_epoch != epoch or not group < len(starts) - 1:
                raise DataError(f"a ledger names sequence {packed} in epoch {epoch}")
            if index >= starts[group + 1] - starts[group]:
                raise DataError(f"a ledger names sequence {index} of group {group}")
            numbers.append(int(starts[group]) + index)
        return np.array(numbers, np.int64)


class _InPackedOrder:
    """Sequence n of an epoch has the id n."""

    def __init__(self, groups: Groups) -> None:
        self._groups = groups
        self.seed = groups.sequence.seed
        self.starts = lru_cache(maxsize=4)(self._packed)

    def num_positions(self, epoch: int) -> int:
        return int(self.starts(epoch)[-1])

    def ids(self, epoch: int, positions: Int64Array) -> Int64Array:
        return positions

    def identity(self) -> dict[str, Any]:
        return self._groups.sequence.identity()

    def details(self, epoch: int, position: int) -> dict[str, Any]:
        return {}

    def describe(self) -> str:
        return f"sequences packed from {self._groups.sequence.describe()}"

    def _packed(self, epoch: int) -> Int64Array:
        """Sequences before each group of an epoch, and before its end."""
        numbers = range(self._groups.num_groups(epoch))
        counts = [self._groups.group(epoch, number)[1].num_sequences for number in numbers]
        return np.concatenate([[0], np.cumsum(np.array(counts, np.int64))]).astype(np.int64)
