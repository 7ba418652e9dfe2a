"""Where the column chunks of a Parquet file lie: its footer, read without pyarrow.

Stands under the Parquet reader.  Invariant: a footer that is damaged is an error; pyarrow's
own access to column metadata ends the process for some of them.

Source: Apache Parquet format, parquet.thrift (FileMetaData.row_groups = 4; RowGroup.columns =
1, num_rows = 3; ColumnChunk.meta_data = 3; ColumnMetaData.path_in_schema = 3,
total_uncompressed_size = 6, total_compressed_size = 7, data_page_offset = 9,
dictionary_page_offset = 11; PageHeader.uncompressed_page_size = 2), and the Thrift compact
protocol.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from iopipe.errors import DataError
from iopipe.protocols import Store

_MAGIC = b"PAR1"
_TAIL_BYTES = 8
_MAX_FOOTER_BYTES = 1 << 28
_PAGE_HEADER_BYTES = 4096
"""Most have twenty; statistics of large values make it longer."""
_MAX_DEPTH = 32
_TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = 1, 2, 3, 7, 8, 9, 10, 11, 12
_INTEGERS = (4, 5, 6)


@dataclass(frozen=True, slots=True)
class Chunk:
    """The values of one leaf column in one row group."""

    column: str
    """The top-level column that it belongs to."""
    offset: int
    num_bytes: int
    num_unpacked_bytes: int
    dictionary_offset: int | None
    """Of the page with the values that the others name; None where there is none."""


@dataclass(frozen=True, slots=True)
class RowGroup:
    num_rows: int
    chunks: tuple[Chunk, ...]


def read_row_groups(store: Store, path: str) -> list[RowGroup]:
    """The row groups of a file, with chunks that lie inside of it."""
    size = store.size(path)
    tail = bytearray(_TAIL_BYTES)
    store.read_into(path, max(0, size - _TAIL_BYTES), memoryview(tail))
    length = int.from_bytes(tail[:4], "little")
    if bytes(tail[4:]) != _MAGIC or not 0 < length <= min(size - _TAIL_BYTES, _MAX_FOOTER_BYTES):
        raise DataError("it is no valid Parquet file: it does not end as one", shard=path)
    footer = bytearray(length)
    store.read_into(path, size - _TAIL_BYTES - length, memoryview(footer))
    try:
        metadata = _Compact(bytes(footer)).struct(0)
        return [_row_group(group, size) for group in metadata[4]]
    except (KeyError, IndexError, ValueError, TypeError, AttributeError) as error:
        raise DataError(f"its Parquet footer is damaged ({error!r})", shard=path) from error


def dictionary_bytes(store: Store, path: str, chunk: Chunk) -> int:
    """What the dictionary of a column chunk unpacks to; 0 where it has none."""
    if chunk.dictionary_offset is None:
        return 0
    header = bytearray(_PAGE_HEADER_BYTES)
    store.read_into(path, chunk.dictionary_offset, memoryview(header))
    try:
        return int(_Compact(bytes(header)).struct(0)[2])
    except (KeyError, IndexError, ValueError, TypeError) as error:
        raise DataError(
            f"the dictionary of column {chunk.column!r} is damaged ({error!r})",
            shard=path,
            offset=chunk.dictionary_offset,
        ) from error


def _row_group(raw: dict[int, Any], size: int) -> RowGroup:
    chunks = []
    for column in raw[1]:
        found = column[3]
        offset = min(found[9], found.get(11) or found[9])
        chunk = Chunk(found[3][0].decode(), offset, found[7], found[6], found.get(11))
        if min(offset, chunk.num_bytes, chunk.num_unpacked_bytes) < 0:
            raise ValueError(f"column {chunk.column!r} has a negative size or place")
        if offset + chunk.num_bytes > size:
            raise ValueError(f"column {chunk.column!r} lies outside of the file")
        chunks.append(chunk)
    if not 0 <= raw[3] < 1 << 62:
        raise ValueError(f"a row group has {raw[3]} rows")
    return RowGroup(raw[3], tuple(chunks))


class _Compact:
    """Reads Thrift's compact protocol into dicts of field numbers, and lists."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._place = 0

    def struct(self, depth: int) -> dict[int, Any]:
        if depth > _MAX_DEPTH:
            raise ValueError("it is nested too deep")
        fields: dict[int, Any] = {}
        number = 0
        while header := self._byte():
            kind, step = header & 15, header >> 4
            number = number + step if step else self._zigzag()
            fields[number] = kind == _TRUE if kind in (_TRUE, _FALSE) else self._value(kind, depth)
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        if kind in _INTEGERS:
            return self._zigzag()
        if kind == _BINARY:
            return self._bytes(self._varint())
        if kind in (_BYTE, _TRUE, _FALSE):
            return self._byte()
        if kind == _DOUBLE:
            return self._bytes(8)
        if kind in (_LIST, _SET):
            return self._list(depth)
        if kind == _STRUCT:
            return self.struct(depth + 1)
        raise ValueError(f"type {kind} is not used by this format")

    def _list(self, depth: int) -> list[Any]:
        header = self._byte()
        count = header >> 4 if header >> 4 < 15 else self._varint()
        if count > len(self._data):
            raise ValueError(f"a list of {count} items does not fit")
        if depth > _MAX_DEPTH:
            raise ValueError("it is nested too deep")
        return [self._value(header & 15, depth + 1) for _ in range(count)]

    def _byte(self) -> int:
        self._place += 1
        return self._data[self._place - 1]

    def _bytes(self, length: int) -> bytes:
        start, self._place = self._place, self._place + length
        if self._place > len(self._data):
            raise ValueError("a text runs past the end")
        return self._data[start : self._place]

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7
            if shift > 63:
                raise ValueError("an integer has more than 64 bits")

    def _zigzag(self) -> int:
        value = self._varint()
        return value >> 1 ^ -(value & 1)
