"""Which bytes of a shard belong to which sample: built once, kept beside the shard.

Stands between the tar walk and the source.  Invariant: an index is used only for the very
shard it was built from (size and version agree) and never points outside of it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from iopipe.errors import DataError
from iopipe.protocols import Int64Array, Store
from iopipe.readers.tar import Member, TarDamage, walk

_logger = logging.getLogger(__name__)

FORMAT_VERSION = "1"
SUFFIX = ".iopipe-index"
_CHECKSUM_BYTES = 16
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
    """The index of a shard: from its sidecar where that fits, else built and stored.

    The sidecar (a checksum, then an Arrow IPC file) lies beside the shard, or in the cache
    folder (`XDG_CACHE_HOME`, by default `~/.cache`) where the shard's folder cannot be
    written; shards that are no local files have none.
    """
    stamp = {"version": FORMAT_VERSION, "shard": store.version(path)}
    places = _places(store, path)
    num_bytes = store.size(path)
    for place in places:
        if place.exists():
            try:
                return _load(place, stamp, num_bytes)
            except (DataError, pa.ArrowException, ValueError, KeyError, OSError) as error:
                _logger.info("index %s is built again: %s", place.name, error)
    index = build_index(store, path)
    save_index(index, stamp, places)
    return index


def save_index(index: ShardIndex, stamp: dict[str, str], places: Iterable[Path]) -> None:
    """Write the sidecar to the first place that can be written, in one step."""
    table = pa.table(
        {
            "key": index.keys,
            **{f"offset:{n}": index.offsets[:, i] for i, n in enumerate(index.columns)},
            **{f"length:{n}": index.lengths[:, i] for i, n in enumerate(index.columns)},
        }
    )
    faults = [[fault.reason, fault.offset, fault.key] for fault in index.faults]
    header = {**stamp, "columns": index.columns, "faults": faults}
    table = table.replace_schema_metadata({"iopipe": json.dumps(header)})
    refusals = []
    for place in places:
        try:
            _write_atomically(place, table)
            return
        except OSError as error:
            refusals.append(f"{place}: {error.strerror}")
    _logger.warning("no index was stored (%s); it is built at every start", "; ".join(refusals))


def stamp_of(store: Store, path: str) -> dict[str, str]:
    """What ties an index to its shard."""
    return {"version": FORMAT_VERSION, "shard": store.version(path)}


def _places(store: Store, path: str) -> list[Path]:
    local = store.local_path(path)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "iopipe", "index")
    if local is None:
        return []
    return [Path(local + SUFFIX), cache / _digest_name(os.path.abspath(local))]


def _digest_name(path: str) -> str:
    return hashlib.blake2b(path.encode("utf-8", "surrogateescape"), digest_size=20).hexdigest()


def _write_atomically(place: Path, table: pa.Table) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    temporary = place.with_name(f"{place.name}.{os.getpid()}.tmp")
    content = pa.BufferOutputStream()
    with pa.ipc.new_file(content, table.schema) as writer:
        writer.write_table(table)
    raw = content.getvalue().to_pybytes()
    try:
        with open(temporary, "wb") as file:
            file.write(_checksum(raw) + raw)
        os.replace(temporary, place)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _load(place: Path, stamp: dict[str, str], num_bytes: int) -> ShardIndex:
    content = place.read_bytes()
    raw = content[_CHECKSUM_BYTES:]
    if _checksum(raw) != content[:_CHECKSUM_BYTES]:
        raise DataError("its checksum is wrong")
    table = pa.ipc.open_file(raw).read_all()
    table.validate(full=True)
    header: dict[str, Any] = json.loads((table.schema.metadata or {}).get(b"iopipe", b"{}"))
    if {name: header.get(name) for name in stamp} != stamp:
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
    return index


def _checksum(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=_CHECKSUM_BYTES).digest()


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
