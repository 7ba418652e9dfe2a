"""One column of one record batch, without copies of bytes and numbers.

Stands under the columnar readers.  Invariant: bytes and numbers are views of the buffers
that the batch was made of, as long as the rows that are asked for allow it; pyarrow's
scalars would copy them.

Source: Apache Arrow columnar format: variable-size binary, fixed-size list and primitive
layouts, and the canonical extension type arrow.fixed_shape_tensor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from iopipe.protocols import ByteArray, Column, Int64Array, Ragged

Span: TypeAlias = tuple[int, int]
"""(address, length) in memory, both in bytes."""


@dataclass(frozen=True, slots=True)
class BytesColumn:
    """Rows of raw bytes."""

    offsets: Int64Array
    """[n + 1]"""
    values: ByteArray
    address: int

    def __getitem__(self, row: int) -> memoryview:
        return self.values[self.offsets[row] : self.offsets[row + 1]].data

    def take(self, rows: Int64Array) -> Column:
        starts = self.offsets[rows]
        return Ragged(self.values, starts, self.offsets[rows + 1] - starts)

    def spans(self, row: int) -> list[Span]:
        start, end = int(self.offsets[row]), int(self.offsets[row + 1])
        return [(self.address + start, end - start)]


@dataclass(frozen=True, slots=True)
class NumbersColumn:
    """Rows of one number, or of a tensor of numbers of fixed shape."""

    values: npt.NDArray[Any]
    """[n, ...]; nulls hold undefined numbers."""

    def __getitem__(self, row: int) -> Any:
        return self.values[row]

    def take(self, rows: Int64Array) -> Column:
        return self.values[rows]

    def spans(self, row: int) -> list[Span]:
        width = self.values.strides[0]
        return [(self.values.ctypes.data + row * width, width)]


@dataclass(frozen=True, slots=True)
class ObjectsColumn:
    """Rows of anything else, as Python objects."""

    array: pa.Array[Any]

    def __getitem__(self, row: int) -> Any:
        return self.array[row].as_py()

    def take(self, rows: Int64Array) -> Column:
        return cast(list[Any], self.array.take(rows).to_pylist())

    def spans(self, row: int) -> list[Span]:
        """All buffers of the column: a row has no bytes of its own."""
        return [(b.address, b.size) for b in self.array.buffers() if b is not None and b.size]


@dataclass(frozen=True, slots=True)
class DictionaryColumn:
    """Rows that name a value of a dictionary.  They are looked up when they are asked for: a
    few bytes may name a large value a million times."""

    indices: Int64Array
    """[n]; 0 where the row is null."""
    values: ArrowColumn

    def __getitem__(self, row: int) -> Any:
        return self.values[int(self.indices[row])]

    def take(self, rows: Int64Array) -> Column:
        return self.values.take(self.indices[rows])

    def spans(self, row: int) -> list[Span]:
        return self.values.spans(int(self.indices[row])) if len(self.indices) else []


ArrowColumn: TypeAlias = BytesColumn | NumbersColumn | ObjectsColumn | DictionaryColumn


def column_of(array: Any) -> ArrowColumn:
    """How the rows of an Arrow array are read."""
    if pa.types.is_dictionary(array.type):
        indices = array.indices.fill_null(0).to_numpy(zero_copy_only=False)
        return DictionaryColumn(indices.astype(np.int64), column_of(array.dictionary))
    shape: tuple[int, ...] = ()
    if isinstance(array.type, pa.FixedShapeTensorType):
        shape, array = tuple(array.type.shape), array.storage
    kind = array.type
    if len(array) and (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        return _bytes_of(array)
    if len(array) and _is_number(kind):
        return NumbersColumn(_numbers_of(array, array.offset, len(array)))
    if len(array) and pa.types.is_boolean(kind) and not array.null_count:
        return NumbersColumn(array.to_numpy(zero_copy_only=False))
    if len(array) and pa.types.is_fixed_size_list(kind) and _is_number(kind.value_type):
        inner, width = array.values, kind.list_size
        first = inner.offset + array.offset * width
        values = _numbers_of(inner, first, len(array) * width)
        return NumbersColumn(values.reshape(len(array), *(shape or (width,))))
    return ObjectsColumn(array)


def row_layout(kind: Any) -> tuple[tuple[int, ...], np.dtype[Any]] | None:
    """Shape and type of a row of numbers as they lie in a buffer; None for other types."""
    shape: tuple[int, ...] = ()
    if isinstance(kind, pa.FixedShapeTensorType):
        if kind.permutation not in (None, [*range(len(kind.shape))]):
            return None
        shape, kind = tuple(kind.shape), kind.value_type
    elif pa.types.is_fixed_size_list(kind):
        shape, kind = (kind.list_size,), kind.value_type
    return (shape, np.dtype(kind.to_pandas_dtype())) if _is_number(kind) else None


def null_rows(array: Any) -> npt.NDArray[np.bool_] | None:
    """bool [n]: which rows are null; None where none is."""
    if pa.types.is_dictionary(array.type) and array.dictionary.null_count:
        known = array.dictionary.is_valid()
        array = known.take(array.indices).fill_null(False)
        return ~np.asarray(array.to_numpy(zero_copy_only=False))
    if not array.null_count:
        return None
    found: npt.NDArray[np.bool_] = array.is_null().to_numpy(zero_copy_only=False)
    return found


def join(parts: list[tuple[Int64Array, Column]], num_rows: int) -> Column:
    """One column of parts of several batches; each part has the places of its rows."""
    if len(parts) == 1:
        places, column = parts[0]
        if (places == np.arange(num_rows)).all():
            return column
    first = parts[0][1]
    if isinstance(first, np.ndarray):
        joined = np.empty((num_rows, *first.shape[1:]), first.dtype)
        for places, column in parts:
            joined[places] = column
        return joined
    rows: list[Any] = [None] * num_rows
    for places, column in parts:
        for place, value in zip(places.tolist(), column, strict=True):
            rows[place] = value
    return rows


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind)


def _numbers_of(array: Any, first: int, count: int) -> npt.NDArray[Any]:
    dtype: np.dtype[Any] = np.dtype(array.type.to_pandas_dtype())
    return np.frombuffer(array.buffers()[1], dtype, count, first * dtype.itemsize)


def _bytes_of(array: Any) -> BytesColumn:
    _, offsets, content = array.buffers()
    dtype = np.dtype(np.int64 if pa.types.is_large_binary(array.type) else np.int32)
    places = np.frombuffer(offsets, dtype, len(array) + 1, array.offset * dtype.itemsize)
    if content is None or not content.size:  # every row is empty
        return BytesColumn(places.astype(np.int64), np.zeros(0, np.uint8), 0)
    values = np.frombuffer(content, np.uint8)
    return BytesColumn(places.astype(np.int64), values, content.address)
