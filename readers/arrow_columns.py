"""One column of one record batch, read row by row without copies.

Stands under the Arrow reader.  Invariant: bytes and numbers are views of the buffers that
the batch was made of; pyarrow's scalars would copy them.

Source: Apache Arrow columnar format, variable-size binary and fixed-size list layouts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from iopipe.protocols import Int64Array

Span: TypeAlias = tuple[int, int]
"""(address, length) in memory, both in bytes."""


@dataclass(frozen=True, slots=True)
class BytesColumn:
    """Rows of raw bytes."""

    offsets: Int64Array
    content: memoryview
    address: int

    def __getitem__(self, row: int) -> memoryview:
        return self.content[self.offsets[row] : self.offsets[row + 1]]

    def spans(self, row: int) -> list[Span]:
        start, end = int(self.offsets[row]), int(self.offsets[row + 1])
        return [(self.address + start, end - start)]


@dataclass(frozen=True, slots=True)
class NumbersColumn:
    """Rows of one number, or of a list of numbers of fixed length."""

    values: npt.NDArray[Any]
    """[n] or [n, k]; nulls hold undefined numbers."""

    def __getitem__(self, row: int) -> Any:
        return self.values[row]

    def spans(self, row: int) -> list[Span]:
        width = self.values.strides[0]
        return [(self.values.ctypes.data + row * width, width)]


@dataclass(frozen=True, slots=True)
class ObjectsColumn:
    """Rows of anything else, as Python objects."""

    array: pa.Array[Any]

    def __getitem__(self, row: int) -> Any:
        return self.array[row].as_py()

    def spans(self, row: int) -> list[Span]:
        """All buffers of the column: a row has no bytes of its own."""
        return [(b.address, b.size) for b in self.array.buffers() if b is not None and b.size]


ArrowColumn: TypeAlias = BytesColumn | NumbersColumn | ObjectsColumn


def column_of(array: pa.Array[Any]) -> ArrowColumn:
    kind = array.type
    if len(array) and (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        return _bytes_of(array)
    if len(array) and _is_number(kind):
        return NumbersColumn(_numbers_of(array, array.offset, len(array)))
    if len(array) and pa.types.is_fixed_size_list(kind) and _is_number(kind.value_type):
        inner, width = cast(Any, array).values, kind.list_size
        first = inner.offset + array.offset * width
        values = _numbers_of(inner, first, len(array) * width)
        return NumbersColumn(values.reshape(len(array), width))
    return ObjectsColumn(array)


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind)


def _numbers_of(array: pa.Array[Any], first: int, count: int) -> npt.NDArray[Any]:
    dtype: np.dtype[Any] = np.dtype(array.type.to_pandas_dtype())
    return np.frombuffer(cast(Any, array.buffers()[1]), dtype, count, first * dtype.itemsize)


def _bytes_of(array: pa.Array[Any]) -> BytesColumn:
    _, offsets, content = cast(Any, array.buffers())
    dtype = np.dtype(np.int64 if pa.types.is_large_binary(array.type) else np.int32)
    places = np.frombuffer(offsets, dtype, len(array) + 1, array.offset * dtype.itemsize)
    if content is None:  # every row is empty
        return BytesColumn(places.astype(np.int64), memoryview(b""), 0)
    return BytesColumn(places.astype(np.int64), memoryview(content), content.address)
