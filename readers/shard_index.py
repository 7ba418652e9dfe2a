"""What an index of a shard is, and how members become samples, one by one.

Stands between the tar walk and the source.  Invariant: consecutive members with one key
are one sample; what cannot be a whole sample is a fault and never a row.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from iopipe.errors import DataError
from iopipe.protocols import Int64Array
from iopipe.readers.plain_arrays import string_array
from iopipe.readers.tar import Member, TarDamage

_NAME = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)", re.DOTALL)
MAX_CELLS_A_MEMBER = 64
"""A table of samples by fields that is emptier than this is an attack on memory: n members
of n samples with n fields would need n * n cells."""
_META = re.compile(r"__[^/]*__($|/)")


@dataclass(frozen=True, slots=True)
class Fault:
    """A sample that is not in the index, and why."""

    reason: str
    offset: int
    key: str


@dataclass(frozen=True, slots=True)
class ShardIndex:
    """The samples of one shard: offsets and lengths of their members, in bytes."""

    columns: tuple[str, ...]
    keys: pa.Array[Any]
    """string [n]"""
    offsets: Int64Array
    """[n, number of columns]; 0 where the sample lacks the member."""
    lengths: Int64Array
    """[n, number of columns]; -1 where the sample lacks the member."""
    faults: tuple[Fault, ...] = ()

    def __len__(self) -> int:
        return len(self.keys)


@dataclass(slots=True)
class IndexBuilder:
    """Groups members into samples: consecutive members with one key are one sample."""

    columns: dict[str, int] = field(default_factory=dict)
    samples: list[tuple[str, dict[int, Member]]] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)
    damaged: set[int] = field(default_factory=set)

    def add(self, key: str, name: str, member: Member) -> None:
        if not self.samples or self.samples[-1][0] != key:
            if is_outside(key):
                self._fault("its key leads out of the dataset", member.offset, key)
                self.damaged.add(len(self.samples))
            if key in self.seen:
                self._fault("another sample of this shard has the same key", member.offset, key)
                self.damaged.add(len(self.samples))
            self.seen.add(key)
            self.samples.append((key, {}))
        members = self.samples[-1][1]
        column = self.columns.setdefault(name, len(self.columns))
        if column in members:
            self._fault(f"the sample has two members {name!r}", member.offset, key)
            self.damaged.add(len(self.samples) - 1)
        elif member.num_bytes == 0:
            self._fault(f"member {name!r} has no bytes", member.offset, key)
            self.damaged.add(len(self.samples) - 1)
        members[column] = member

    def end(self, damage: TarDamage) -> None:
        """The walk ended early: a sample whose member was cut off is damaged, and so is
        the last one, of which members may be missing."""
        split = split_name(damage.name) if damage.name else None
        key = split[0] if split else ""
        self._fault(f"{damage.reason}; write the shard again", damage.offset, key)
        if self.samples and key == self.samples[-1][0]:
            self.damaged.add(len(self.samples) - 1)

    def build(self) -> ShardIndex:
        kept = [s for number, s in enumerate(self.samples) if number not in self.damaged]
        if len(kept) * len(self.columns) > MAX_CELLS_A_MEMBER * sum(len(m) for _, m in kept):
            raise DataError(
                f"its {len(kept)} samples have {len(self.columns)} different fields between "
                "them; write samples with the same fields"
            )
        offsets = np.zeros((len(kept), len(self.columns)), np.int64)
        lengths = np.full((len(kept), len(self.columns)), -1, np.int64)
        for row, (_, members) in enumerate(kept):
            for column, member in members.items():
                offsets[row, column] = member.offset
                lengths[row, column] = member.num_bytes
        keys = string_array([storable(key) for key, _ in kept])
        return ShardIndex(tuple(self.columns), keys, offsets, lengths, tuple(self.faults))

    def _fault(self, reason: str, offset: int, key: str) -> None:
        self.faults.append(Fault(reason, offset, storable(key)))


def is_outside(key: str) -> bool:
    """Whether a file of this name would lie elsewhere than below its folder."""
    return key.startswith("/") or "\0" in key or ".." in key.split("/")


def split_name(name: str) -> tuple[str, str] | None:
    """(key, field) by the WebDataset convention: the key is the path without the extensions
    after the first dot of the base name; None for names that belong to no sample.  Bytes of a
    field that are no UTF-8 become question marks, since columns are named in it."""
    match = _NAME.fullmatch(name)
    if match is None or _META.match(name):
        return None
    return match[1], storable(match[2]).lower()


def storable(name: str) -> str:
    """Arrow's strings are UTF-8: bytes of a name that are not become question marks."""
    return name.encode("utf-8", "replace").decode()
