"""MosaicML Streaming's shards (MDS), raw or compressed with zstd, and their index.json.

A reader: samples of a shard become `Samples`.  Invariant: an index or an offset that points
outside of its shard is an error, and nothing is unpacked beyond what the options allow.  Damage
is charged to the rows that it touches: those whose offsets or sizes do not fit, or all of a
shard whose table, or whose compressed whole, cannot be read.

Source: mosaicml/streaming, streaming/base/format/mds: uint32 number of samples, uint32 offsets
[n + 1], a header, and the samples: uint32 sizes of the columns whose size varies, then the
values of all columns in their order.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from iopipe.errors import DataError, PipelineError
from iopipe.protocols import ByteRange, Column, Int64Array, Location, Samples, Store
from iopipe.readers.damage import charge, open_shards
from iopipe.readers.formats import Format, OpenOptions
from iopipe.readers.gather import gather, plan_gathering
from iopipe.readers.mds_index import INDEX, MDSIndexes, MDSShard
from iopipe.readers.mds_values import value_decoder
from iopipe.readers.rows import Rows

_MAX_UNPACKED = 4
"""Compressed shards are unpacked as a whole, and so many are kept."""


class MDSSource:
    """Random access to the samples of MDS shards.

    bytes, jpeg and png columns are views, str text, json objects, numbers arrays, ndarrays
    one array a sample.  The sample's number is its key.  Columns pickled by their writer are
    refused.
    """

    def __init__(self, shards: Sequence[str], store: Store, options: OpenOptions) -> None:
        indexes = MDSIndexes(store)
        found, self.faults = open_shards(shards, indexes.shards_of, options.on_error)
        self._shards = [shard for listed in found for shard in listed or ()]
        self._limit = options.max_sample_bytes
        first = self._shards[0] if self._shards else None
        for shard in self._shards:
            if first and (shard.names, shard.encodings) != (first.names, first.encodings):
                raise DataError(
                    f"its columns differ from those of {first.path!r}", shard=shard.path
                )
        names = first.names if first else ()
        unknown = [name for name in options.columns or () if name not in names]
        if unknown:
            raise PipelineError(f"fields {unknown} are not among {', '.join(names)}; use those")
        decoders = [value_decoder(e, first.path) for e in first.encodings] if first else []
        self._decoders = dict(zip(names, decoders, strict=True))
        self.shards = tuple(shard.path for shard in self._shards)
        self.columns = options.columns or names
        self.schema = pa.schema([(name, self._decoders[name][1]) for name in self.columns])
        self._rows = Rows([shard.num_samples for shard in self._shards])
        digest = hashlib.blake2b(repr((names, first and first.encodings)).encode(), digest_size=16)
        for shard in self._shards:
            digest.update(f"{posixpath.basename(shard.path)}\0{shard.num_samples}\0".encode())
        self.digest = digest.hexdigest()
        self._is_packed = np.array([s.packed_bytes is not None for s in self._shards], bool)
        self._offsets: dict[int, Int64Array] = {}
        self._unpacked = _Kept()
        self._lost: dict[int, DataError] = {}
        """Shards that cannot be unpacked: their rows are asked for one after the other."""

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def mean_bytes(self) -> float:
        sizes = [s.num_bytes if s.packed_bytes is None else s.packed_bytes for s in self._shards]
        return sum(sizes) / max(1, len(self))

    def locate(self, sample_id: int) -> Location:
        shards, rows = self._rows.place([sample_id])
        shard, row = int(shards[0]), int(rows[0])
        offset = int(self._offsets[shard][row]) if shard in self._offsets else 0
        return Location(self.shards[shard], offset, str(sample_id))

    def ranges(self, ids: Sequence[int] | Int64Array) -> list[ByteRange]:
        """Of compressed shards the whole file; of others an even share of it for every sample,
        since their offsets are not known before they are read."""
        shards, rows = self._rows.place(ids)
        is_packed = self._is_packed[shards]
        touched = [self._shards[shard] for shard in sorted(set(shards[is_packed].tolist()))]
        whole = [ByteRange(shard.path, 0, shard.packed_bytes or 0) for shard in touched]
        sizes = np.array([s.num_bytes // max(1, s.num_samples) for s in self._shards], np.int64)
        shards, rows = shards[~is_packed], rows[~is_packed]
        lengths = sizes[shards, None]
        shares = plan_gathering(shards, lengths * rows[:, None], lengths).ranges(self.shards)
        return whole + shares

    def samples(self, ids: Sequence[int] | Int64Array, store: Store) -> Samples:
        wanted = np.asarray(ids, np.int64)
        shards, rows = self._rows.place(wanted)
        raw = self._raw(shards, rows, store)
        fields = [self._fields(row, content) for row, content in enumerate(raw)]
        columns: dict[str, Column] = {}
        for name in self.columns:
            values = [sample[name] for sample in fields]
            is_number = bool(values) and isinstance(values[0], np.generic)
            columns[name] = np.array(values) if is_number else values
        return Samples(ids=wanted, keys=[str(n) for n in wanted.tolist()], columns=columns)

    # ---- inside ----------------------------------------------------------------------

    def _raw(self, shards: Int64Array, rows: Int64Array, store: Store) -> list[memoryview]:
        """The bytes of each sample."""
        table = np.empty((len(shards), 2), np.int64)
        found: list[memoryview] = [memoryview(b"")] * len(shards)
        is_packed = self._is_packed[shards]
        row = 0
        try:
            for row, place in enumerate(zip(shards.tolist(), rows.tolist(), strict=True)):
                table[row] = self._extent(*place, store)
                if is_packed[row]:
                    content = self._content(place[0], store)
                    found[row] = content[table[row, 0] : table[row, 1]]
        except DataError as error:
            charge(error, row)
            raise
        raw = np.flatnonzero(~is_packed)
        values = self._gathered(raw, shards[raw], table[raw], store)
        for row, value in zip(raw.tolist(), values, strict=True):
            found[row] = memoryview(value)
        return found

    def _gathered(
        self, raw: Int64Array, shards: Int64Array, table: Int64Array, store: Store
    ) -> Column:
        """The bytes at (begin, end) in their shards, of the rows `raw` of what was asked for."""
        try:
            starts, lengths = table[:, :1], table[:, 1:] - table[:, :1]
            (column,) = gather(store, self.shards, shards, starts, lengths)
        except DataError as error:
            if error.row is not None:
                error.row = int(raw[error.row])
            raise
        return column

    def _extent(self, number: int, row: int, store: Store) -> tuple[int, int]:
        """(begin, end) of a sample in its shard, both checked: its neighbours' may be damaged."""
        shard = self._shards[number]
        if number not in self._offsets:
            self._offsets[number] = self._read_offsets(number, store)
        begin, end = self._offsets[number][row : row + 2].tolist()
        if not 4 * (shard.num_samples + 2) <= begin <= end <= shard.num_bytes:
            raise DataError(
                f"its offsets {begin} to {end} do not lie in {shard.num_bytes} bytes",
                shard=shard.path,
            )
        if end - begin > self._limit:
            raise DataError(
                f"it has {end - begin} bytes, allowed are {self._limit}; raise max_sample_bytes",
                shard=shard.path,
            )
        return begin, end

    def _read_offsets(self, number: int, store: Store) -> Int64Array:
        """[n + 1] bytes, as they stand there."""
        shard = self._shards[number]
        table = memoryview(bytearray(4 * (shard.num_samples + 2)))
        if shard.packed_bytes is None:
            table = table[: store.read_into(shard.path, 0, table)]
        else:
            table = self._content(number, store)[: len(table)]
        if len(table) < 4 * (shard.num_samples + 2):
            raise DataError("it ends inside its table of offsets", shard=shard.path)
        count, *_ = np.frombuffer(table, "<u4", 1)
        if int(count) != shard.num_samples:
            raise DataError(
                f"it says that it has {count} samples, its index {shard.num_samples}",
                shard=shard.path,
            )
        return np.frombuffer(table, "<u4", shard.num_samples + 1, 4).astype(np.int64)

    def _content(self, number: int, store: Store) -> memoryview:
        """The whole of a compressed shard, unpacked."""
        kept = self._unpacked.get(number)
        if kept is not None:
            return kept
        lost = self._lost.get(number)
        if lost is not None:
            raise DataError(lost.reason, shard=lost.shard)
        shard = self._shards[number]
        try:
            content = _unpacked(shard, store, self._limit)
        except DataError as error:
            self._lost[number] = DataError(error.reason, shard=shard.path)
            raise
        self._unpacked.put(number, content)
        return content

    def _fields(self, row: int, content: memoryview) -> dict[str, Any]:
        place = 0
        sizes: dict[str, int] = {}
        try:
            for name, (_, _, size) in self._decoders.items():
                if size is None:
                    size = int.from_bytes(content[place : place + 4], "little")
                    place += 4
                sizes[name] = size
            if place + sum(sizes.values()) != len(content):
                raise ValueError("the sizes of its fields do not make its size")
            fields = {}
            for name, (decode, _, _) in self._decoders.items():
                if name in self.columns:
                    fields[name] = decode(content[place : place + sizes[name]])
                place += sizes[name]
            return fields
        except (ValueError, IndexError, OverflowError, RecursionError) as error:
            raise DataError(f"the sample cannot be decoded: {error}", row=row) from error


class _Kept:
    """The latest unpacked shards; thread-safe, and empty after a journey."""

    def __init__(self) -> None:
        self._contents: OrderedDict[int, memoryview] = OrderedDict()
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[_Kept], tuple[()]]:
        return _Kept, ()

    def get(self, number: int) -> memoryview | None:
        with self._lock:
            if number in self._contents:
                self._contents.move_to_end(number)
            return self._contents.get(number)

    def put(self, number: int, content: memoryview) -> None:
        with self._lock:
            self._contents[number] = content
            while len(self._contents) > _MAX_UNPACKED:
                self._contents.popitem(last=False)


def _unpacked(shard: MDSShard, store: Store, limit: int) -> memoryview:
    packed_bytes = shard.packed_bytes or 0
    if max(shard.num_bytes, packed_bytes) > limit:
        raise DataError(
            f"it has {packed_bytes} bytes, unpacked {shard.num_bytes}, allowed are {limit}; raise "
            "max_sample_bytes",
            shard=shard.path,
        )
    num_bytes = store.size(shard.path)
    if num_bytes != packed_bytes:
        raise DataError(
            f"it has {num_bytes} bytes, its index says {packed_bytes}", shard=shard.path
        )
    packed = bytearray(num_bytes)
    num_read = store.read_into(shard.path, 0, memoryview(packed))
    try:
        unpacked = pa.decompress(
            bytes(packed[:num_read]), decompressed_size=shard.num_bytes, codec="zstd"
        )
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"it cannot be unpacked: {error}", shard=shard.path) from error
    content = memoryview(unpacked)
    if len(content) != shard.num_bytes:
        raise DataError("unpacked it is not as long as its index says", shard=shard.path)
    return content


def _is_content(head: bytes, path: str) -> bool:
    if head:
        return path.endswith((".mds", ".mds.zstd", "/" + INDEX))
    try:
        with open(os.path.join(path, INDEX), "rb") as file:
            start = file.read(1 << 16)
    except OSError:
        return False
    return b'"mds"' in start


FORMAT = Format(name="mds", suffixes=(), is_content=_is_content, open=MDSSource)
