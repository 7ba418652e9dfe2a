"""Arrow IPC files and streams: record batches, mapped into memory.

A reader: columns of a file become columns of `Samples`.  Invariant: bytes and numbers of
batches that are not compressed are views of the mapped file until something downstream
copies them on purpose; no batch is used that was not validated.  Damage is charged to the rows
of its batch.

Source: Apache Arrow columnar format, IPC file and streaming format.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import pyarrow as pa

from iopipe.errors import DataError, PipelineError
from iopipe.protocols import (
    ByteRange,
    Column,
    ErrorPolicy,
    Int64Array,
    Location,
    NumberKeys,
    Samples,
    Source,
    Store,
)
from iopipe.readers.arrow_columns import (
    ArrowColumn,
    NumbersColumn,
    Span,
    column_of,
    join,
    null_rows,
    row_layout,
)
from iopipe.readers.arrow_encoder import arrow_encoder
from iopipe.readers.arrow_file import ArrowFile, no_file, open_arrow
from iopipe.readers.arrow_framing import FILE_MAGIC, STREAM_START
from iopipe.readers.damage import charge, open_shards
from iopipe.readers.formats import Format, OpenOptions
from iopipe.readers.gather import take_rows
from iopipe.readers.rows import Rows
from iopipe.readers.spans import RowSpans

KEY = "__key__"
_MAX_UNPACKED = 8
"""Compressed batches that are kept once they were unpacked."""


class Batch:
    """A validated record batch with its columns, opened when first asked for."""

    def __init__(self, batch: pa.RecordBatch, path: str) -> None:
        try:
            batch.validate(full=True)
        except pa.ArrowException as error:
            raise DataError(f"a record batch is damaged: {error}", shard=path) from error
        self._batch = batch
        self._columns: dict[str, tuple[ArrowColumn, Any]] = {}

    def column(self, name: str) -> ArrowColumn:
        return self._opened(name)[0]

    def take(self, name: str, rows: Int64Array, places: Int64Array) -> Column:
        """These rows of a column; a null is a `DataError` with the place of its row."""
        self.check(name, rows, places)
        return self.column(name).take(rows)

    def has_nulls(self, name: str) -> bool:
        return self._opened(name)[1] is not None

    def check(self, name: str, rows: Int64Array, places: Int64Array) -> None:
        """A `DataError` where one of these rows is null."""
        _, is_null = self._opened(name)
        if is_null is not None and is_null[rows].any():
            place = int(places[np.argmax(is_null[rows])])
            raise DataError(f"field {name!r} is null", row=place)

    def _opened(self, name: str) -> tuple[ArrowColumn, Any]:
        found = self._columns.get(name)
        if found is None:
            array = self._batch.column(name)
            found = self._columns[name] = (column_of(array), null_rows(array))
        return found


class ArrowSource:
    """Random access to the rows of Arrow IPC files or streams.

    A row is a sample; its key is the column `__key__`, else the sample's number.  Numbers,
    booleans, fixed-size lists of numbers and tensors of fixed shape become arrays, binary
    columns views of the file, everything else Python objects; dictionary-encoded columns
    are what their values are.  A row with a null is damaged.  A compressed batch is unpacked
    as a whole, and some are kept; none may unpack to more than `max_batch_bytes`.
    """

    def __init__(
        self,
        shards: Sequence[str],
        store: Store,
        *,
        columns: Sequence[str] | None = None,
        max_batch_bytes: int = 1 << 30,
        on_error: ErrorPolicy = "raise",
    ) -> None:
        self.shards = tuple(shards)
        found, self.faults = open_shards(
            self.shards, lambda path: open_arrow(path, store, max_batch_bytes), on_error
        )
        whole = [file for file in found if file is not None]
        self._file_schema = whole[0].schema if whole else pa.schema([])
        self._files = [
            file or no_file(path, self._file_schema)
            for path, file in zip(self.shards, found, strict=True)
        ]
        for file in whole:
            if not file.schema.equals(self._file_schema):
                raise DataError(
                    f"its schema differs from that of {whole[0].path!r}; read them apart",
                    shard=file.path,
                )
        self.columns = _chosen([n for n in self._file_schema.names if n != KEY], columns)
        self.schema = pa.schema([self._file_schema.field(name) for name in self.columns])
        self._places = [
            (f, n) for f, file in enumerate(self._files) for n in range(len(file.frames))
        ]
        self._rows = Rows([frame.num_rows for file in whole for frame in file.frames])
        self.digest = self._identity()
        self._kept = _Kept()
        self._lost: dict[int, DataError] = {}
        """Batches that are damaged: their rows are asked for one after the other."""
        is_packed = any(frame.is_packed for file in whole for frame in file.frames)
        self.fills = not is_packed and all(row_layout(field.type) for field in self.schema)
        """Whether every column is numbers of one shape that lie in the files as they are."""

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def mean_bytes(self) -> float | None:
        """None where rows have bytes of their own, so that `ranges` says it."""
        if self.fills or len(self.columns) < len(self._file_schema) - 1:
            return None
        return sum(file.memory.size for file in self._files) / max(1, len(self))

    def locate(self, sample_id: int) -> Location:
        """A row of a damaged batch is where its batch is, under its number."""
        batches, rows = self._rows.place([sample_id])
        batch, row = int(batches[0]), int(rows[0])
        file, number = self._place(batch)
        try:
            spans = self._spans(batch, row, self.columns[:1])
            key = self._keys([sample_id])[0]
        except DataError:
            return Location(file.path, file.frames[number].place, str(sample_id))
        return Location(file.path, spans[0][0] if spans else 0, key)

    def ranges(self, ids: Sequence[int] | Int64Array) -> list[ByteRange]:
        """The bytes of each row's values in the file; nothing for compressed buffers,
        which have no bytes of their own there, and for batches that are damaged."""
        ranges = []
        for batch, row in zip(*(part.tolist() for part in self._rows.place(ids)), strict=True):
            path = self._place(batch)[0].path
            with suppress(DataError):
                spans = self._spans(batch, row, self.columns)
                ranges += [ByteRange(path, start, length) for start, length in spans]
        return ranges

    def samples(self, ids: Sequence[int] | Int64Array, store: Store) -> Samples:
        wanted = np.asarray(ids, np.int64)
        columns = {name: self._column(name, wanted) for name in self.columns}
        return Samples(ids=wanted, keys=self._keys(wanted), columns=columns)

    def fill(self, wanted: Samples, store: Store) -> Samples:
        """The rows `wanted`, copied from the mapped files into the memory that it has for them."""
        columns: dict[str, Column] = {}
        for spans in self.row_spans(wanted.ids):
            rows = columns[spans.name] = wanted.empty(spans.name, spans.row_shape, spans.dtype)
            take_rows([file.memory for file in self._files], self.shards, spans, rows)
        return wanted.made(columns, keys=self.keys(wanted.ids))

    def keys(self, ids: Int64Array) -> Sequence[str]:
        if KEY in self._file_schema.names:
            return self._keys(ids)
        return NumberKeys(ids)

    def row_spans(
        self, ids: Sequence[int] | Int64Array, store: Store | None = None
    ) -> list[RowSpans]:
        """Where the rows of every column lie in the files; a row with a null is a `DataError`, a
        column that is no numbers of one shape, or is compressed, a `PipelineError`."""
        stretches = self._rows.stretches(np.asarray(ids, np.int64))
        return [self._row_spans(name, *stretches) for name in self.columns]

    # ---- inside ----------------------------------------------------------------------

    def _row_spans(
        self,
        name: str,
        batches: Int64Array,
        rows: Int64Array,
        firsts: Int64Array,
        counts: Int64Array,
    ) -> RowSpans:
        layout = row_layout(self.schema.field(name).type)
        if layout is None:
            raise PipelineError(
                f"column {name!r} is {self.schema.field(name).type}, whose rows are no numbers of "
                "one shape: choose others with columns=, or use path='slots'"
            )
        row_shape, dtype = layout
        width = int(np.prod(row_shape, dtype=np.int64)) * dtype.itemsize
        known = np.unique(batches)
        starts = np.empty(len(known), np.int64)
        for place, batch in enumerate(known.tolist()):
            here = np.flatnonzero(batches == batch)
            try:
                starts[place] = self._start(batch, name)
            except DataError as error:
                charge(error, int(firsts[here[0]]))
                raise
            if self._batch(batch).has_nulls(name):
                self._check(batch, name, rows[here], firsts[here], counts[here])
        return RowSpans(
            name=name,
            dtype=dtype,
            row_shape=row_shape,
            shards=np.array([file for file, _ in self._places], np.int64)[batches],
            offsets=starts[np.searchsorted(known, batches)] + rows * width,
            firsts=firsts,
            counts=counts,
        )

    def _check(
        self, batch: int, name: str, rows: Int64Array, firsts: Int64Array, counts: Int64Array
    ) -> None:
        within = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
        every = np.repeat(rows, counts) + within
        self._batch(batch).check(name, every, np.repeat(firsts, counts) + within)

    def _start(self, batch: int, name: str) -> int:
        """Where in its file the first row of a column of numbers lies."""
        file = self._place(batch)[0]
        column = self._batch(batch).column(name)
        if isinstance(column, NumbersColumn):
            address = int(column.values.ctypes.data) - file.memory.address
            if 0 <= address <= file.memory.size - column.values.nbytes:
                return address
        raise PipelineError(
            f"column {name!r} does not lie in {file.path!r} as it is: write the file without "
            "compression, or use path='slots'"
        )

    def _column(self, name: str, ids: Int64Array) -> Column:
        batches, rows = self._rows.place(ids)
        parts: list[tuple[Int64Array, Column]] = []
        for batch in sorted(set(batches.tolist())):
            places = np.flatnonzero(batches == batch)
            try:
                parts.append((places, self._batch(batch).take(name, rows[places], places)))
            except DataError as error:
                charge(error, int(places[0]))
                raise
        return join(parts, len(ids)) if parts else []

    def _keys(self, ids: Sequence[int] | Int64Array) -> list[str]:
        wanted = np.asarray(ids, np.int64)
        if KEY in self._file_schema.names:
            return [str(key) for key in self._column(KEY, wanted)]
        return [str(sample) for sample in wanted.tolist()]

    def _place(self, batch: int) -> tuple[ArrowFile, int]:
        """(file, number of the batch in it)"""
        file, number = self._places[batch]
        return self._files[file], number

    def _spans(self, batch: int, row: int, columns: Sequence[str]) -> list[Span]:
        """(offset, length) in the file of a row's values."""
        file, found = self._place(batch)[0], self._batch(batch)
        return file.places([part for name in columns for part in found.column(name).spans(row)])

    def _batch(self, batch: int) -> Batch:
        kept = self._kept.get(batch)
        if kept is not None:
            return kept
        lost = self._lost.get(batch)
        if lost is not None:
            raise DataError(lost.reason, shard=lost.shard, offset=lost.offset)
        file, number = self._place(batch)
        frame = file.frames[number]
        try:
            opened = Batch(file.batch(number), file.path)
        except DataError as error:
            self._lost[batch] = DataError(error.reason, shard=file.path, offset=frame.place)
            raise
        return self._kept.put(batch, opened, is_large=frame.is_packed)

    def _identity(self) -> str:
        digest = hashlib.blake2b(str(self._file_schema.remove_metadata()).encode(), digest_size=16)
        for file in self._files:
            num_rows = sum(frame.num_rows for frame in file.frames)
            digest.update(f"{file.path.rsplit('/', 1)[-1]}\0{num_rows}\0".encode())
        return digest.hexdigest()


class _Kept:
    """Batches that were opened; of those that were unpacked only the latest.  Thread-safe, and
    empty after a journey."""

    def __init__(self) -> None:
        self._small: dict[int, Batch] = {}
        self._large: OrderedDict[int, Batch] = OrderedDict()
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[_Kept], tuple[()]]:
        return _Kept, ()

    def get(self, number: int) -> Batch | None:
        found = self._small.get(number)
        if found is not None:
            return found
        with self._lock:
            if number in self._large:
                self._large.move_to_end(number)
            return self._large.get(number)

    def put(self, number: int, batch: Batch, *, is_large: bool) -> Batch:
        if not is_large:
            return self._small.setdefault(number, batch)
        with self._lock:
            self._large[number] = batch
            while len(self._large) > _MAX_UNPACKED:
                self._large.popitem(last=False)
        return batch


def _chosen(found: list[str], columns: Sequence[str] | None) -> tuple[str, ...]:
    unknown = [name for name in columns or () if name not in found]
    if unknown:
        raise PipelineError(
            f"fields {unknown} are not in the dataset, which has {', '.join(found)}; "
            "choose among those"
        )
    return tuple(columns or found)


def _is_content(head: bytes, path: str) -> bool:
    is_stream = head.startswith(STREAM_START) and len(head) >= 8 and head[4:8] != bytes(4)
    return head.startswith(FILE_MAGIC) or is_stream


def _open(shards: Sequence[str], store: Store, options: OpenOptions) -> Source:
    return ArrowSource(
        shards,
        store,
        columns=options.columns,
        max_batch_bytes=options.max_sample_bytes,
        on_error=options.on_error,
    )


FORMAT = Format(
    name="arrow",
    suffixes=(".arrow", ".feather"),
    is_content=_is_content,
    open=_open,
    encoder=arrow_encoder,
)
