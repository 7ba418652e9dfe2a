"""MosaicML Streaming's shards (MDS), raw or compressed with zstd, and their index.json.

A reader: samples of a shard become `Samples`.  Invariant: an index or an offset that points
outside of its shard is an error, and nothing is unpacked beyond what the options allow.

Source: mosaicml/streaming, streaming/base/format/mds: uint32 number of samples, uint32 offsets
[n + 1], a header, and the samples: uint32 sizes of the columns whose size varies, then the
values of all columns in their order.
"""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from iopipe.errors import DataError, NotFoundError, PipelineError
from iopipe.protocols import ByteRange, Column, Int64Array, Location, Samples, Store
from iopipe.readers.formats import Format, OpenOptions
from iopipe.readers.gather import gather, plan_gathering
from iopipe.readers.mds_values import value_decoder
from iopipe.readers.rows import Rows

INDEX = "index.json"
_VERSION = 2
_MAX_INDEX_BYTES = 1 << 28
_MAX_UNPACKED = 4
"""Compressed shards are unpacked as a whole, and so many are kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shard:
    path: str
    num_samples: int
    num_bytes: int
    """Of the raw shard."""
    packed_bytes: int | None
    """None: the shard is not compressed."""
    names: tuple[str, ...]
    encodings: tuple[str, ...]


class MDSSource:
    """Random access to the samples of MDS shards.

    bytes, jpeg and png columns are views, str text, json objects, numbers arrays, ndarrays
    one array a sample.  The sample's number is its key.  Columns pickled by their writer are
    refused.
    """

    def __init__(self, shards: Sequence[str], store: Store, options: OpenOptions) -> None:
        self._shards = [shard for path in shards for shard in _indexed(path, store)]
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
        self.faults: Sequence[DataError] = ()
        self._rows = Rows([shard.num_samples for shard in self._shards])
        digest = hashlib.blake2b(repr((names, first and first.encodings)).encode(), digest_size=16)
        for shard in self._shards:
            digest.update(f"{posixpath.basename(shard.path)}\0{shard.num_samples}\0".encode())
        self.digest = digest.hexdigest()
        self._is_packed = first is not None and first.packed_bytes is not None
        self._offsets: dict[int, Int64Array] = {}
        self._unpacked = _Kept()

    def __len__(self) -> int:
        return len(self._rows)

    def locate(self, sample_id: int) -> Location:
        shards, rows = self._rows.place([sample_id])
        shard, row = int(shards[0]), int(rows[0])
        offset = int(self._offsets[shard][row]) if shard in self._offsets else 0
        return Location(self.shards[shard], offset, str(sample_id))

    def ranges(self, ids: Sequence[int] | Int64Array) -> list[ByteRange]:
        """Of compressed shards the whole file; of others an even share of it for every sample,
        since their offsets are not known before they are read."""
        shards, rows = self._rows.place(ids)
        if self._is_packed:
            touched = [self._shards[shard] for shard in sorted(set(shards.tolist()))]
            return [ByteRange(shard.path, 0, shard.packed_bytes or 0) for shard in touched]
        sizes = np.array([s.num_bytes // max(1, s.num_samples) for s in self._shards], np.int64)
        lengths = sizes[shards, None]
        return plan_gathering(shards, lengths * rows[:, None], lengths).ranges(self.shards)

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
        for shard in set(shards.tolist()) - self._offsets.keys():
            self._offsets[shard] = self._read_offsets(shard, store)
        pairs = list(zip(shards.tolist(), rows.tolist(), strict=True))
        if self._is_packed:
            return [
                self._content(shard, store)[slice(*self._offsets[shard][row : row + 2].tolist())]
                for shard, row in pairs
            ]
        places = [self._offsets[shard][row : row + 2] for shard, row in pairs]
        table = np.array(places, np.int64).reshape(-1, 2)
        lengths = table[:, 1:] - table[:, :1]
        (column,) = gather(store, self.shards, shards, table[:, :1], lengths)
        return [memoryview(content) for content in column]

    def _read_offsets(self, number: int, store: Store) -> Int64Array:
        """[n + 1] bytes, checked against the size of the shard."""
        shard = self._shards[number]
        table = memoryview(bytearray(4 * (shard.num_samples + 2)))
        if shard.packed_bytes is None:
            table = table[: store.read_into(shard.path, 0, table)]
        else:
            table = self._content(number, store)[: len(table)]
        if len(table) < 4 * (shard.num_samples + 2):
            raise DataError("it ends inside its table of offsets", shard=shard.path)
        count, *_ = np.frombuffer(table, "<u4", 1)
        offsets = np.frombuffer(table, "<u4", shard.num_samples + 1, 4).astype(np.int64)
        is_rising = (np.diff(offsets) >= 0).all() and offsets[0] >= len(table)
        if int(count) != shard.num_samples or not is_rising or offsets[-1] > shard.num_bytes:
            raise DataError("its table of offsets contradicts itself", shard=shard.path)
        return offsets

    def _content(self, number: int, store: Store) -> memoryview:
        """The whole of a compressed shard, unpacked."""
        kept = self._unpacked.get(number)
        if kept is not None:
            return kept
        shard = self._shards[number]
        if shard.num_bytes > self._limit:
            raise DataError(
                f"unpacked it has {shard.num_bytes} bytes, allowed are {self._limit}; raise "
                "max_sample_bytes",
                shard=shard.path,
            )
        packed = bytearray(store.size(shard.path))
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


# ---- the index -----------------------------------------------------------------------


def _indexed(path: str, store: Store) -> list[_Shard]:
    """The shards that a folder, an index or a shard stands for."""
    is_shard = path.endswith((".mds", ".mds.zstd"))
    folder = posixpath.dirname(path) if is_shard or path.endswith(INDEX) else path.rstrip("/")
    index = posixpath.join(folder, INDEX)
    try:
        num_bytes = store.size(index)
    except NotFoundError as error:
        raise DataError(f"there is no {INDEX} beside it", shard=path) from error
    if num_bytes > _MAX_INDEX_BYTES:
        raise DataError(f"an index of {num_bytes} bytes is not sane", shard=index)
    content = bytearray(num_bytes)
    store.read_into(index, 0, memoryview(content))
    try:
        raw = json.loads(content)
        if raw["version"] != _VERSION:
            raise ValueError(f"its version is {raw['version']!r}, read is {_VERSION}")
        shards = [_parsed(entry, folder) for entry in raw["shards"]]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"the index is not valid ({error!r})", shard=index) from error
    found = [shard for shard in shards if not is_shard or shard.path == path]
    if not found and is_shard:
        raise DataError(f"{INDEX} does not list it", shard=path)
    return found


def _parsed(entry: dict[str, Any], folder: str) -> _Shard:
    if entry["format"] != "mds":
        raise ValueError(f"format {entry['format']!r} is not read, write mds")
    if entry["compression"] is not None and not str(entry["compression"]).startswith("zstd"):
        raise ValueError(f"compression {entry['compression']!r} is not read, use zstd or none")
    raw, packed = entry["raw_data"], entry["zip_data"] if entry["compression"] else None
    name = (packed or raw)["basename"]
    names, encodings = entry["column_names"], entry["column_encodings"]
    counts = [entry["samples"], raw["bytes"], *([packed["bytes"]] if packed else [])]
    if not all(isinstance(count, int) and 0 <= count < 1 << 62 for count in counts):
        raise ValueError(f"its counts are {counts}")
    if not isinstance(name, str) or name in ("", ".", "..") or "/" in name or "\0" in name:
        raise ValueError(f"shard {name!r} leads out of the dataset's folder")
    if len(names) != len(encodings) or len(set(names)) != len(names):
        raise ValueError("its columns and encodings do not fit")
    if not all(isinstance(text, str) for text in (*names, *encodings)):
        raise ValueError("its columns are no text")
    if 4 * (entry["samples"] + 2) > raw["bytes"]:
        raise ValueError(f"{entry['samples']} samples do not fit {raw['bytes']} bytes")
    return _Shard(
        path=posixpath.join(folder, name),
        num_samples=entry["samples"],
        num_bytes=raw["bytes"],
        packed_bytes=packed["bytes"] if packed else None,
        names=tuple(names),
        encodings=tuple(encodings),
    )


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
