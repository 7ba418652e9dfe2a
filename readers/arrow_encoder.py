"""Samples as record batches: Arrow IPC files, written.

The writing side of the Arrow format, and of what else is made of record batches.
Invariant: a row that does not fit the schema is refused when it is written, by its key.

Source: Apache Arrow columnar format, IPC file format.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import pyarrow as pa

from iopipe.errors import DataError, PipelineError
from iopipe.readers.arrow_columns import column_of
from iopipe.readers.checksums import fingerprint
from iopipe.readers.encoder import Finished
from iopipe.readers.formats import WriteOptions

KEY = "__key__"


class BatchBuilder:
    """Collects samples and gives them out as record batches of one schema."""

    def __init__(self, schema: pa.Schema | None) -> None:
        self.schema = schema
        self.checksums: list[int] = []
        self.num_pending_bytes = 0
        self._rows: list[Mapping[str, Any]] = []
        self._names: frozenset[str] | None = None if schema is None else frozenset(schema.names)

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, sample: Mapping[str, Any]) -> None:
        names = frozenset(sample)
        if self._names is not None and names != self._names:
            raise DataError(
                f"the sample has fields {sorted(names)}, those before it "
                f"{sorted(self._names)}; write the same fields for all",
                key=str(sample.get(KEY, "")),
            )
        schema = infer_schema(sample) if self.schema is None else self.schema
        for field in schema:
            _array([sample[field.name]], field, [sample])
        self.schema, self._names = schema, names
        self._rows.append(dict(sample))
        self.num_pending_bytes += sum(map(_num_bytes, sample.values()))

    def batch(self) -> pa.RecordBatch:
        """All that was added since the last batch."""
        rows, self._rows, self.num_pending_bytes = self._rows, [], 0
        schema = self.schema = self.schema or pa.schema([])
        arrays = [_array([row[field.name] for row in rows], field, rows) for field in schema]
        batch = pa.RecordBatch.from_arrays(arrays, schema=schema)
        columns = {n: column_of(batch.column(n)) for n in schema.names if n != KEY}
        for row in range(batch.num_rows):
            fields = {name: column[row] for name, column in columns.items()}
            self.checksums.append(fingerprint(fields))
        return batch

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(n for n in self.schema.names if n != KEY) if self.schema is not None else ()


class BatchEncoder:
    """An `Encoder` that writes record batches of `rows_per_group` rows."""

    def __init__(
        self, sink: BinaryIO, options: WriteOptions, open_writer: Callable[[Any, pa.Schema], Any]
    ) -> None:
        """`open_writer` makes a pyarrow writer of this format for a file and a schema."""
        self._sink: Any = sink
        self._open_writer = open_writer
        self._rows_per_batch = options.rows_per_group
        self._builder = BatchBuilder(options.schema)
        self._writer: Any = None

    @property
    def num_bytes(self) -> int:
        return int(self._sink.tell()) + self._builder.num_pending_bytes

    def write(self, sample: Mapping[str, Any]) -> None:
        self._builder.add(sample)
        if len(self._builder) == self._rows_per_batch:
            self._flush()

    def finish(self) -> Finished:
        if len(self._builder) or self._writer is None:
            self._flush()
        self._writer.close()
        return Finished(
            columns=self._builder.columns,
            checksums=self._builder.checksums,
            stores_keys=self._builder.schema is not None and KEY in self._builder.schema.names,
        )

    def _flush(self) -> None:
        batch = self._builder.batch()
        if self._writer is None:
            self._writer = self._open_writer(self._sink, batch.schema)
        self._writer.write_batch(batch)


def arrow_encoder(sink: BinaryIO, options: WriteOptions) -> BatchEncoder:
    """Encodes IPC files; buffers are compressed with lz4 or zstd where `compression` says so."""
    if options.compression not in (None, "lz4", "zstd"):
        raise PipelineError(f"compression is {options.compression!r}; use 'lz4' or 'zstd'")
    chosen = pa.ipc.IpcWriteOptions(compression=cast(Any, options.compression))
    return BatchEncoder(
        sink, options, lambda file, schema: pa.ipc.new_file(file, schema, options=chosen)
    )


def write_arrow(
    path: str | os.PathLike[str],
    samples: Iterable[Mapping[str, Any]],
    *,
    schema: pa.Schema | None = None,
    rows_per_batch: int = 1024,
) -> int:
    """Write samples as one Arrow IPC file, in one step; the number of rows.

    Without `schema` the types are those of the first sample.
    """
    target = Path(path)
    temporary = target.with_name(f"{target.name}.{os.getpid()}.tmp")
    rows = iter(samples)
    num_rows = 0
    try:
        with open(temporary, "wb") as file:
            options = WriteOptions(schema=schema, rows_per_group=rows_per_batch)
            encoder = arrow_encoder(file, options)
            while chunk := list(islice(rows, rows_per_batch)):
                for row in chunk:
                    encoder.write(row)
                num_rows += len(chunk)
            encoder.finish()
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return num_rows


def infer_schema(sample: Mapping[str, Any]) -> pa.Schema:
    """The types of a sample's fields: what Arrow makes of them, lists for arrays of one
    dimension, tensors of fixed shape for those of more."""
    key = str(sample.get(KEY, ""))
    return pa.schema([(name, _inferred(name, value, key)) for name, value in sample.items()])


def _type_of(value: Any) -> pa.DataType:
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "iuf":
        kind: pa.DataType = pa.from_numpy_dtype(value.dtype)
        if value.ndim < 2:
            return pa.list_(kind) if value.ndim else kind
        return pa.fixed_shape_tensor(kind, value.shape)
    found: pa.DataType = pa.array([_plain(value)]).type
    return found


def _inferred(name: str, value: Any, key: str) -> pa.DataType:
    try:
        return _type_of(value)
    except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
        raise DataError(f"field {name!r} has no type in Arrow: {error}", key=key) from error


def _array(values: list[Any], field: pa.Field[Any], rows: Sequence[Mapping[str, Any]]) -> Any:
    try:
        if isinstance(field.type, pa.FixedShapeTensorType):
            stacked = np.ascontiguousarray(np.stack(values))
            if stacked.shape[1:] != tuple(field.type.shape):
                raise ValueError(f"an array has the shape {stacked.shape[1:]}")
            storage = pa.FixedSizeListArray.from_arrays(
                pa.array(stacked.reshape(-1), field.type.value_type),
                int(np.prod(field.type.shape)),
            )
            return pa.ExtensionArray.from_storage(field.type, storage)
        return pa.array([_plain(value) for value in values], field.type)
    except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
        if len(values) == 1:
            key = str(rows[0].get(KEY, ""))
            reason = f"field {field.name!r} does not fit {field.type}: {error}"
            raise DataError(reason, key=key) from error
        for value, row in zip(values, rows, strict=True):
            _array([value], field, [row])
        raise


def _plain(value: Any) -> Any:
    if isinstance(value, memoryview):
        return bytes(value)
    if isinstance(value, np.generic):
        return value.item()
    return value.tolist() if isinstance(value, np.ndarray) and value.ndim > 1 else value


def _num_bytes(value: Any) -> int:
    if isinstance(value, bytes | bytearray | str):
        return len(value)
    return int(getattr(value, "nbytes", 8))
