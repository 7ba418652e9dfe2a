"""Which bytes of a shard belong to which sample: built once, kept beside the shard.

Stands between the tar walk and the source.  Invariant: an index is used only for the very
shard it was built from (age, size and two header blocks agree) and never points outside.
"""

from __future__ import annotations

import hashlib
import logging
import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from iopipe.errors import DataError
from iopipe.protocols import Int64Array, Store
from iopipe.readers.sidecar import find_sidecars, seal, store_sidecar, unseal
from iopipe.readers.tar import BLOCK_BYTES, Member, TarDamage, walk

_logger = logging.getLogger(__name__)

FORMAT_VERSION = 2
_NAME = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)", re.DOTALL)
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
        offsets = np.zeros((len(kept), len(self.columns)), np.int64)
        lengths = np.full((len(kept), len(self.columns)), -1, np.int64)
        for row, (_, members) in enumerate(kept):
            for column, member in members.items():
                offsets[row, column] = member.offset
                lengths[row, column] = member.num_bytes
        keys = pa.array([_storable(key) for key, _ in kept], pa.string())
        return ShardIndex(tuple(self.columns), keys, offsets, lengths, tuple(self.faults))

    def _fault(self, reason: str, offset: int, key: str) -> None:
        self.faults.append(Fault(reason, offset, _storable(key)))


def is_outside(key: str) -> bool:
    """Whether a file of this name would lie elsewhere than below its folder."""
    return key.startswith("/") or "\0" in key or ".." in key.split("/")


def split_name(name: str) -> tuple[str, str] | None:
    """(key, field) by the WebDataset convention: the key is the path without the extensions
    after the first dot of the base name; None for names that belong to no sample."""
    match = _NAME.fullmatch(name)
    if match is None or _META.match(name):
        return None
    return match[1], match[2].lower()


def build_index(store: Store, path: str) -> ShardIndex:
    """Walk a tar shard and group its members."""
    builder = IndexBuilder()
    for item in walk(store, path):
        if isinstance(item, TarDamage):
            builder.end(item)
            break
        split = split_name(item.name)
        if split is not None:
            builder.add(*split, item)
    return builder.build()


def _storable(key: str) -> str:
    """Arrow's strings are UTF-8: bytes of a name that are not become question marks."""
    return key.encode("utf-8", "replace").decode()


# ---- the sidecar ---------------------------------------------------------------------


def load_index(store: Store, path: str) -> ShardIndex:
    """The index of a shard: from a sidecar that fits, else built and stored."""
    num_bytes = store.size(path)
    for name, content in find_sidecars(store, path):
        try:
            return _parsed(content, store, path, num_bytes)
        except (DataError, ValueError, KeyError, TypeError) as error:
            _logger.info("index %s is built again: %s", name, error)
    index = build_index(store, path)
    store_sidecar(store, path, pack_index(index, num_bytes, _marks(index, store, path)))
    return index


def pack_index(index: ShardIndex, num_bytes: int, marks: bytes) -> bytes:
    """The content of a shard's sidecar.

    `num_bytes` is the size of the shard, `marks` the first header block and the one before
    the last member's data: they tie the index to its shard.
    """
    table = pa.table(
        {
            "key": index.keys,
            **{f"offset:{n}": index.offsets[:, i] for i, n in enumerate(index.columns)},
            **{f"length:{n}": index.lengths[:, i] for i, n in enumerate(index.columns)},
        }
    )
    header = {
        "version": FORMAT_VERSION,
        "num_bytes": num_bytes,
        "marks": hashlib.blake2b(marks, digest_size=16).hexdigest(),
        "columns": index.columns,
        "faults": [[fault.reason, fault.offset, fault.key] for fault in index.faults],
    }
    return seal(table, header)


def _parsed(content: bytes, store: Store, path: str, num_bytes: int) -> ShardIndex:
    table, header = unseal(content)
    if (header["version"], header["num_bytes"]) != (FORMAT_VERSION, num_bytes):
        raise DataError("it was made from another version of the shard")
    columns = tuple(str(name) for name in header["columns"])
    index = ShardIndex(
        columns,
        table["key"].combine_chunks(),
        _matrix(table, [f"offset:{name}" for name in columns]),
        _matrix(table, [f"length:{name}" for name in columns]),
        tuple(Fault(str(r), int(o), str(k)) for r, o, k in header["faults"]),
    )
    _check(index, num_bytes)
    marks = hashlib.blake2b(_marks(index, store, path), digest_size=16).hexdigest()
    if marks != header["marks"]:
        raise DataError("it was made from another shard of the same size")
    return index


def _marks(index: ShardIndex, store: Store, path: str) -> bytes:
    """The first header block, and the one before the data of the last member."""
    marks = bytearray(2 * BLOCK_BYTES)
    last = int(index.offsets.max(initial=BLOCK_BYTES)) - BLOCK_BYTES
    for place, offset in ((0, 0), (BLOCK_BYTES, max(0, last))):
        store.read_into(path, offset, memoryview(marks)[place : place + BLOCK_BYTES])
    return bytes(marks)


def _matrix(table: pa.Table, names: list[str]) -> Int64Array:
    matrix = np.empty((table.num_rows, len(names)), np.int64)
    for number, name in enumerate(names):
        matrix[:, number] = table[name].to_numpy()
    return matrix


def _check(index: ShardIndex, num_bytes: int) -> None:
    """A sidecar is as untrusted as the shard."""
    if index.keys.type != pa.string() or index.keys.null_count:
        raise DataError("its keys are no strings")
    absent = index.lengths == -1
    outside = (index.offsets < 0) | (index.lengths < 1) | (index.lengths > num_bytes)
    outside |= index.offsets > num_bytes - index.lengths
    if (outside & ~absent).any():
        raise DataError("it points outside of the shard")
