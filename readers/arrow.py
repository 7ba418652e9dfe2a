"""Arrow IPC files: record batches, mapped into memory.

A reader: columns of a file become columns of `Samples`.  Invariant: bytes and numbers are
views of the mapped file until something downstream copies them on purpose.

Source: Apache Arrow columnar format, IPC file format.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from iopipe.errors import DataError, PipelineError
from iopipe.protocols import ByteRange, Column, Int64Array, Location, Samples, Source, Store
from iopipe.readers.arrow_columns import ArrowColumn, NumbersColumn, Span, column_of
from iopipe.readers.formats import Format, OpenOptions

KEY = "__key__"


class _Batch:
    """A record batch with its columns, opened when first asked for."""

    def __init__(self, batch: pa.RecordBatch) -> None:
        self.num_rows = batch.num_rows
        self._batch = batch
        self._columns: dict[str, ArrowColumn] = {}

    def column(self, name: str) -> ArrowColumn:
        column = self._columns.get(name)
        if column is None:
            column = self._columns[name] = column_of(self._batch.column(name))
        return column

    def is_null(self, name: str, row: int) -> bool:
        array = self._batch.column(name)
        return bool(array.null_count) and not array[row].is_valid


@dataclass(frozen=True, slots=True)
class _Shard:
    path: str
    memory: pa.Buffer
    """The whole file, mapped where it is a local one."""
    schema: pa.Schema
    batches: tuple[_Batch, ...]
    ends: Int64Array
    """Rows up to the end of each batch."""


class ArrowSource:
    """Random access to the rows of Arrow IPC files.

    A row is a sample; its key is the column `__key__`, else the sample's number.  Numbers
    become arrays, fixed-size lists of numbers [n, k] arrays, binary columns lists of
    memoryviews into the file, everything else Python objects.  A row with a null is
    damaged.
    """

    def __init__(
        self, shards: Sequence[str], store: Store, *, columns: Sequence[str] | None = None
    ) -> None:
        self.shards = tuple(shards)
        self._files = [_opened(path, store) for path in self.shards]
        self._file_schema = self._files[0].schema if self._files else pa.schema([])
        for shard in self._files:
            if not shard.schema.equals(self._file_schema):
                raise DataError(
                    f"its schema differs from that of {self.shards[0]!r}; read them apart",
                    shard=shard.path,
                )
        self.columns = _chosen([n for n in self._file_schema.names if n != KEY], columns)
        self.schema = pa.schema([self._file_schema.field(name) for name in self.columns])
        self.faults: Sequence[DataError] = ()
        sizes = [int(shard.ends[-1]) if len(shard.ends) else 0 for shard in self._files]
        self._ends = np.cumsum(sizes, dtype=np.int64)
        self.digest = self._identity(sizes)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def locate(self, sample_id: int) -> Location:
        shard, batch, row = self._place(sample_id)
        spans = _in_file(shard, batch.column(self.columns[0]).spans(row))
        offset = spans[0][0] if spans else 0
        return Location(shard.path, offset, self._key(sample_id, batch, row))

    def ranges(self, ids: Sequence[int] | Int64Array) -> list[ByteRange]:
        """The bytes of each row's values in the file; nothing for compressed buffers,
        which have no bytes of their own there."""
        ranges = []
        for sample in np.asarray(ids, np.int64).tolist():
            shard, batch, row = self._place(sample)
            for name in self.columns:
                spans = _in_file(shard, batch.column(name).spans(row))
                ranges += [ByteRange(shard.path, start, length) for start, length in spans]
        return ranges

    def samples(self, ids: Sequence[int] | Int64Array, store: Store) -> Samples:
        wanted = np.asarray(ids, np.int64)
        places = [self._place(sample) for sample in wanted.tolist()]
        columns = {name: self._column(name, places) for name in self.columns}
        keys = [
            self._key(sample, batch, row)
            for sample, (_, batch, row) in zip(wanted.tolist(), places, strict=True)
        ]
        return Samples(ids=wanted, keys=keys, columns=columns)

    # ---- inside ----------------------------------------------------------------------

    def _column(self, name: str, places: list[tuple[_Shard, _Batch, int]]) -> Column:
        for number, (_, batch, row) in enumerate(places):
            if batch.is_null(name, row):
                raise DataError(f"field {name!r} is null", row=number)
        columns = [(batch.column(name), row) for _, batch, row in places]
        values = [column[row] for column, row in columns]
        if columns and isinstance(columns[0][0], NumbersColumn):
            return np.stack(values)
        return values

    def _key(self, sample_id: int, batch: _Batch, row: int) -> str:
        return str(batch.column(KEY)[row]) if KEY in self._file_schema.names else str(sample_id)

    def _place(self, sample_id: int) -> tuple[_Shard, _Batch, int]:
        if not 0 <= sample_id < len(self):
            raise IndexError(f"sample {sample_id} of {len(self)}")
        number = int(np.searchsorted(self._ends, sample_id, side="right"))
        shard = self._files[number]
        row = sample_id - (int(self._ends[number - 1]) if number else 0)
        batch = int(np.searchsorted(shard.ends, row, side="right"))
        return shard, shard.batches[batch], row - (int(shard.ends[batch - 1]) if batch else 0)

    def _identity(self, sizes: list[int]) -> str:
        digest = hashlib.blake2b(str(self._file_schema.remove_metadata()).encode(), digest_size=16)
        for path, size in zip(self.shards, sizes, strict=True):
            digest.update(f"{path.rsplit('/', 1)[-1]}\0{size}\0".encode())
        return digest.hexdigest()


def _opened(path: str, store: Store) -> _Shard:
    local = store.local_path(path)
    try:
        memory = _mapped(local) if local is not None else _read_whole(path, store)
        reader = pa.ipc.open_file(memory)
        batches = tuple(reader.get_batch(n) for n in range(reader.num_record_batches))
        for batch in batches:
            batch.validate(full=True)
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise DataError(
            f"it is no valid Arrow IPC file ({error}); write it again", shard=path
        ) from error
    ends = np.cumsum([batch.num_rows for batch in batches], dtype=np.int64)
    return _Shard(path, memory, reader.schema, tuple(map(_Batch, batches)), ends)


def _mapped(path: str) -> pa.Buffer:
    # The mapping stays valid after its file object is closed, so no descriptor is kept.
    with pa.memory_map(path) as file:
        return file.read_buffer()


def _read_whole(path: str, store: Store) -> pa.Buffer:
    content = bytearray(store.size(path))
    num_bytes = store.read_into(path, 0, memoryview(content))
    return pa.py_buffer(memoryview(content)[:num_bytes])


def _chosen(found: list[str], columns: Sequence[str] | None) -> tuple[str, ...]:
    unknown = [name for name in columns or () if name not in found]
    if unknown:
        raise PipelineError(
            f"fields {unknown} are not in the dataset, which has {', '.join(found)}; "
            "choose among those"
        )
    return tuple(columns or found)


def _in_file(shard: _Shard, spans: list[Span]) -> list[Span]:
    """Memory spans as (offset, length) in the file; those outside of it are left out."""
    start, end = shard.memory.address, shard.memory.address + shard.memory.size
    return [
        (address - start, length)
        for address, length in spans
        if start <= address and address + length <= end
    ]


def write_arrow(
    path: str | os.PathLike[str],
    samples: Iterable[Mapping[str, Any]],
    *,
    schema: pa.Schema | None = None,
    rows_per_batch: int = 1024,
) -> int:
    """Write samples as one Arrow IPC file, in one step; the number of rows.

    Without `schema` the types are those that Arrow infers from the first batch.
    """
    target = Path(path)
    temporary = target.with_name(f"{target.name}.{os.getpid()}.tmp")
    rows = iter(samples)
    first = list(islice(rows, rows_per_batch))
    if schema is None:
        schema = pa.Table.from_pylist([dict(row) for row in first]).schema
    num_rows = 0
    try:
        with open(temporary, "wb") as file, pa.ipc.new_file(file, schema) as writer:
            batch = first
            while batch:
                writer.write_batch(
                    pa.RecordBatch.from_pylist([dict(row) for row in batch], schema=schema)
                )
                num_rows += len(batch)
                batch = list(islice(rows, rows_per_batch))
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return num_rows


def _open(shards: Sequence[str], store: Store, options: OpenOptions) -> Source:
    return ArrowSource(shards, store, columns=options.columns)


FORMAT = Format(
    name="arrow",
    suffixes=(".arrow",),
    is_content=lambda head, path: head.startswith(b"ARROW1"),
    open=_open,
)
