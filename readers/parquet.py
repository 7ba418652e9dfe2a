"""Parquet files: row groups, read as they are needed.

A reader: columns of a row group become columns of `Samples`.  Invariant: only the row groups
and columns that the samples need are read, and a row group is decoded once for all of its
rows that are asked for in a row.

Damage is charged to the rows of its row group: pages cannot be decoded one by one.  What a row
group decodes to is known from its pages' headers before anything is unpacked, and is at most
`max_sample_bytes`; while it is decoded, pyarrow may take as much again.

Source: Apache Parquet format; decoding is pyarrow's.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import pyarrow as pa

from iopipe.errors import DataError, PipelineError, StorageError
from iopipe.protocols import ByteRange, Column, Int64Array, Location, Samples, Source, Store
from iopipe.readers.arrow import Batch
from iopipe.readers.arrow_columns import join
from iopipe.readers.arrow_encoder import BatchEncoder
from iopipe.readers.damage import charged_to, of_arrow, open_shards
from iopipe.readers.formats import Format, OpenOptions, WriteOptions
from iopipe.readers.parquet_footer import RowGroup, read_row_groups
from iopipe.readers.parquet_pages import plan_steps
from iopipe.readers.rows import Rows
from iopipe.readers.store_file import StoreFile

if TYPE_CHECKING:
    import pyarrow.parquet as pq

KEY = "__key__"
_MAGIC = b"PAR1"
_DAMAGE = (pa.ArrowException, OSError, ValueError, OverflowError)
_MAX_KEPT = 4
"""Decoded row groups; block-wise access decodes each once, random access wants files with
small row groups."""


@dataclass(frozen=True, slots=True)
class _File:
    path: str
    schema: pa.Schema
    metadata: Any
    """pyarrow.parquet.FileMetaData, for pyarrow's own use."""
    groups: list[RowGroup]

    @property
    def num_rows(self) -> int:
        return sum(group.num_rows for group in self.groups)


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
            self.shards, lambda path: _read_footer(path, store), options.on_error
        )
        schemas = [file.schema for file in found if file is not None]
        self._file_schema = schemas[0] if schemas else pa.schema([])
        self._files = [
            file or _File(path, self._file_schema, None, [])
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
            with charged_to(int(places[0])):
                batch = self._group(number, store)
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
        path, metadata = self.shards[file], self._files[file].metadata
        found = self._files[file].groups[group]
        chunks = [chunk for chunk in found.chunks if chunk.column in columns]
        try:
            self._check(group, sum(chunk.num_unpacked_bytes for chunk in chunks))
            content = StoreFile(store, path)
            if store.local_path(path) is None:
                self._check(group, sum(chunk.num_bytes for chunk in chunks))
                content.hold([(chunk.offset, chunk.num_bytes) for chunk in chunks])
            num_bytes, rows_at_once = plan_steps(content.at, chunks, found.num_rows, self._limit)
            if rows_at_once is None:
                self._check(group, num_bytes)
            with _opened(path, store, metadata, content) as reader:
                table = self._decoded(reader, group, columns, rows_at_once)
            batches = table.combine_chunks().to_batches()
        except DataError as error:
            error.shard = path
            raise
        except StorageError:
            raise
        except _DAMAGE as error:
            raise of_arrow(error, path, f"row group {group} cannot be read") from error
        if len(batches) != 1 or batches[0].num_rows != found.num_rows:
            raise DataError(f"row group {group} has not the rows it says", shard=path)
        return Batch(batches[0], path)

    def _check(self, group: int, num_bytes: int) -> None:
        if num_bytes > self._limit:
            raise DataError(
                f"row group {group} may decode to {num_bytes} bytes, allowed are {self._limit}; "
                "raise max_sample_bytes"
            )

    def _decoded(
        self, reader: pq.ParquetFile, group: int, columns: list[str], rows_at_once: int | None
    ) -> pa.Table:
        """A row group: at once where it cannot become too large, else so many rows at a time
        until it does."""
        if rows_at_once is None:
            return reader.read_row_group(group, columns=columns)
        batches: list[pa.RecordBatch] = []
        num_bytes = 0
        for batch in reader.iter_batches(rows_at_once, row_groups=[group], columns=columns):
            num_bytes += batch.nbytes
            self._check(group, num_bytes)
            batches.append(batch)
        return pa.Table.from_batches(batches)

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
                found += [first + rows for rows in _held(file, path, filter)]
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


def _read_footer(path: str, store: Store) -> _File:
    groups = read_row_groups(store, path)
    try:
        with _opened(path, store, None, StoreFile(store, path)) as reader:
            return _File(path, reader.schema_arrow, reader.metadata, groups)
    except (DataError, StorageError):
        raise
    except (*_DAMAGE, MemoryError) as error:
        raise of_arrow(error, path, "it is no valid Parquet file") from error


def _held(file: _File, path: str, filter: Any) -> Iterator[Int64Array]:
    """The rows of each row group that the filter holds for, as numbers in the file."""
    import pyarrow.compute as pc
    import pyarrow.dataset as ds  # brings pandas, where there is one: 0.3 s

    if not file.groups:
        return
    starts = np.cumsum([0, *(group.num_rows for group in file.groups)])
    dataset: Any = ds.dataset(path, format="parquet")
    for fragment in dataset.get_fragments():
        for part in fragment.split_by_row_group(filter):
            held = part.to_table(columns={"held": filter})["held"]
            rows = np.flatnonzero(pc.fill_null(held, False).to_numpy())
            yield int(starts[part.row_groups[0].id]) + rows


def _opened(path: str, store: Store, metadata: Any, content: StoreFile) -> pq.ParquetFile:
    import pyarrow.parquet as pq  # 20 ms, which other formats need not wait for

    local = store.local_path(path)
    source: Any = local if local is not None else pa.PythonFile(content, mode="r")
    return pq.ParquetFile(source, metadata=metadata, memory_map=local is not None, pre_buffer=False)


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
