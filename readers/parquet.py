"""Parquet files: row groups, read as they are needed.

A reader: columns of a row group become columns of `Samples`.  Invariant: only the row groups
and columns that the samples need are read, and a row group is decoded once for all of its
rows that are asked for in a row.

Damage is charged to the rows of its row group: pages cannot be decoded one by one.

Source: Apache Parquet format; decoding is pyarrow's.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from iopipe.errors import DataError, PipelineError
from iopipe.protocols import ByteRange, Column, Int64Array, Location, Samples, Source, Store
from iopipe.readers.arrow import Batch
from iopipe.readers.arrow_columns import join
from iopipe.readers.arrow_encoder import BatchEncoder
from iopipe.readers.damage import charge, open_shards
from iopipe.readers.formats import Format, OpenOptions, WriteOptions
from iopipe.readers.parquet_file import ParquetFile, held_rows, read_footer, read_group
from iopipe.readers.rows import Rows

KEY = "__key__"
_MAGIC = b"PAR1"
_MAX_KEPT = 4
"""Decoded row groups; block-wise access decodes each once, random access wants files with
small row groups."""


class ParquetSource:
    """Random access to the rows of Parquet files.

    A row is a sample; its key is the column `__key__`, else the sample's number.  Values are
    given as the Arrow reader gives them.  With a `filter` only the rows that it holds for
    are samples: pyarrow.dataset skips the row groups whose statistics exclude it, and the
    others are looked through once, when the source is opened.
    """

    def __init__(self, shards: Sequence[str], store: Store, options: OpenOptions) -> None:
        self.shards = tuple(shards)
        self._limit = options.max_sample_bytes
        found, self.faults = open_shards(
            self.shards, lambda path: read_footer(path, store), options.on_error
        )
        schemas = [file.schema for file in found if file is not None]
        self._file_schema = schemas[0] if schemas else pa.schema([])
        self._files = [
            file or ParquetFile(path, self._file_schema, None, [])
            for path, file in zip(self.shards, found, strict=True)
        ]
        for file in self._files:
            if not file.schema.equals(self._file_schema):
                raise DataError(
                    f"its schema differs from that of {self.shards[0]!r}; read them apart",
                    shard=file.path,
                )
        names = [name for name in self._file_schema.names if name != KEY]
        unknown = [name for name in options.columns or () if name not in names]
        if unknown:
            raise PipelineError(f"fields {unknown} are not among {', '.join(names)}; use those")
        self.columns = tuple(options.columns or names)
        self.schema = pa.schema([self._file_schema.field(name) for name in self.columns])
        self._groups = [
            (number, group)
            for number, file in enumerate(self._files)
            for group in range(len(file.groups))
        ]
        self._rows = Rows([self._files[f].groups[g].num_rows for f, g in self._groups])
        self._selected = None if options.filter is None else self._matching(options.filter, store)
        self.digest = self._identity(options)
        self._kept = _Kept()
        self._lost: dict[int, DataError] = {}
        """Row groups that are damaged: their rows are asked for one after the other."""

    def __len__(self) -> int:
        return len(self._rows) if self._selected is None else len(self._selected)

    @property
    def mean_bytes(self) -> float:
        """Of the columns that are read, in a row of the files."""
        places = range(len(self._groups))
        sizes = [size for n in places for _, size in self._chunks(*self._groups[n])]
        return sum(sizes) / max(1, len(self._rows))

    def locate(self, sample_id: int) -> Location:
        """With the sample's number as its key: the stored ones have to be read."""
        groups, _ = self._place([sample_id])
        file, group = self._groups[int(groups[0])]
        return Location(self.shards[file], self._extent(file, group)[0], str(sample_id))

    def ranges(self, ids: Sequence[int] | Int64Array) -> list[ByteRange]:
        """The column chunks of the row groups that these samples lie in."""
        groups, _ = self._place(ids)
        ranges = []
        for number in sorted(set(groups.tolist())):
            file, group = self._groups[number]
            for start, length in self._chunks(file, group):
                ranges.append(ByteRange(self.shards[file], start, length))
        return ranges

    def samples(self, ids: Sequence[int] | Int64Array, store: Store) -> Samples:
        wanted = np.asarray(ids, np.int64)
        groups, rows = self._place(wanted)
        parts: dict[str, list[tuple[Int64Array, Column]]] = {n: [] for n in self._read_columns()}
        for number in sorted(set(groups.tolist())):
            places = np.flatnonzero(groups == number)
            try:
                batch = self._group(number, store)
            except DataError as error:
                charge(error, int(places[0]))
                raise
            for name, found in parts.items():
                found.append((places, batch.take(name, rows[places], places)))
        columns = {name: join(found, len(wanted)) if found else [] for name, found in parts.items()}
        keys = columns.pop(KEY, None) if KEY in self._file_schema.names else None
        return Samples(
            ids=wanted,
            keys=[str(key) for key in (wanted.tolist() if keys is None else keys)],
            columns={name: columns[name] for name in self.columns},
        )

    def stored_keys(self, ids: Int64Array, store: Store) -> list[str]:
        """Read from their column alone."""
        if KEY not in self._file_schema.names:
            return [str(sample) for sample in ids.tolist()]
        groups, rows = self._place(ids)
        keys: list[str] = [""] * len(ids)
        for number in sorted(set(groups.tolist())):
            places = np.flatnonzero(groups == number)
            found = self._read(number, [KEY], store).take(KEY, rows[places], places)
            for place, key in zip(places.tolist(), found, strict=True):
                keys[place] = str(key)
        return keys

    # ---- inside ----------------------------------------------------------------------

    def _read_columns(self) -> list[str]:
        return [*self.columns, *([KEY] if KEY in self._file_schema.names else [])]

    def _place(self, ids: Sequence[int] | Int64Array) -> tuple[Int64Array, Int64Array]:
        wanted = np.asarray(ids, np.int64)
        if self._selected is not None:
            if wanted.size and not 0 <= wanted.min() <= wanted.max() < len(self):
                raise IndexError(f"a sample of {wanted.tolist()} is not among {len(self)}")
            wanted = self._selected[wanted]
        return self._rows.place(wanted)

    def _group(self, number: int, store: Store) -> Batch:
        lost = self._lost.get(number)
        if lost is not None:
            raise DataError(lost.reason, shard=lost.shard, offset=lost.offset)
        kept = self._kept.get(number)
        if kept is not None:
            return kept
        try:
            return self._kept.put(number, self._read(number, self._read_columns(), store))
        except DataError as error:
            self._lost[number] = DataError(error.reason, shard=error.shard, offset=error.offset)
            raise

    def _read(self, number: int, columns: list[str], store: Store) -> Batch:
        """These columns of a row group."""
        file, group = self._groups[number]
        found = read_group(self._files[file], group, columns, store, self._limit)
        return Batch(found, self.shards[file])

    def _matching(self, filter: Any, store: Store) -> Int64Array:
        """The rows that the filter holds for, as numbers among all rows."""
        found = [np.empty(0, np.int64)]
        first = 0
        for file in self._files:
            path = store.local_path(file.path)
            if path is None:
                raise PipelineError(
                    f"a filter needs local files, {file.path!r} is none; filter when sharding"
                )
            try:
                found += [first + rows for rows in held_rows(file, path, filter)]
            except (pa.ArrowException, OSError) as error:
                raise DataError(
                    f"the filter {filter} cannot be applied: {error}", shard=file.path
                ) from error
            first += file.num_rows
        return np.concatenate(found)

    def _extent(self, file: int, group: int) -> tuple[int, int]:
        chunks = self._chunks(file, group)
        start = min((first for first, _ in chunks), default=0)
        return start, max((first + length for first, length in chunks), default=0) - start

    def _chunks(self, file: int, group: int) -> list[tuple[int, int]]:
        """(offset, length) of the column chunks that are read."""
        wanted = set(self._read_columns())
        chunks = self._files[file].groups[group].chunks
        return [(chunk.offset, chunk.num_bytes) for chunk in chunks if chunk.column in wanted]

    def _identity(self, options: OpenOptions) -> str:
        digest = hashlib.blake2b(str(self._file_schema.remove_metadata()).encode(), digest_size=16)
        for file in self._files:
            name = file.path.rsplit("/", 1)[-1]
            digest.update(f"{name}\0{file.num_rows}\0".encode())
        if self._selected is not None:
            digest.update(str(options.filter).encode() + self._selected.tobytes())
        return digest.hexdigest()


class _Kept:
    """The latest decoded row groups; thread-safe."""

    def __init__(self) -> None:
        self._groups: OrderedDict[int, Batch] = OrderedDict()
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[_Kept], tuple[()]]:
        return _Kept, ()

    def get(self, number: int) -> Batch | None:
        with self._lock:
            if number in self._groups:
                self._groups.move_to_end(number)
            return self._groups.get(number)

    def put(self, number: int, group: Batch) -> Batch:
        with self._lock:
            self._groups[number] = group
            while len(self._groups) > _MAX_KEPT:
                self._groups.popitem(last=False)
        return group


def parquet_encoder(sink: BinaryIO, options: WriteOptions) -> BatchEncoder:
    """Encodes Parquet, a batch a row group; `compression` is snappy, zstd, lz4 or gzip, none by
    default."""
    if options.compression not in (None, "snappy", "zstd", "lz4", "gzip"):
        raise PipelineError(f"compression is {options.compression!r}; use 'zstd' or 'lz4'")
    import pyarrow.parquet as pq

    compression: Any = options.compression or "none"
    return BatchEncoder(
        sink, options, lambda file, schema: pq.ParquetWriter(file, schema, compression=compression)
    )


def _open(shards: Sequence[str], store: Store, options: OpenOptions) -> Source:
    return ParquetSource(shards, store, options)


FORMAT = Format(
    name="parquet",
    suffixes=(".parquet",),
    is_content=lambda head, path: head.startswith(_MAGIC),
    open=_open,
    encoder=parquet_encoder,
)
