"""Where the column chunks of a Parquet file lie, and their pages: read without pyarrow.

Stands under the Parquet reader.  Invariant: a footer that is damaged is an error; pyarrow's
own access to column metadata ends the process for some of them.

Source: Apache Parquet format, parquet.thrift (FileMetaData.row_groups = 4; RowGroup.columns =
1, num_rows = 3; ColumnChunk.meta_data = 3; ColumnMetaData.type = 1, path_in_schema = 3, codec =
4, num_values = 5, total_uncompressed_size = 6, total_compressed_size = 7, data_page_offset = 9,
dictionary_page_offset = 11; PageHeader.type = 1, uncompressed_page_size = 2,
compressed_page_size = 3, data_page_header = 5, dictionary_page_header = 7, data_page_header_v2 =
8; of these headers num_values = 1, encoding = 2, in version 2 encoding = 4), and the Thrift
compact protocol.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from iopipe.errors import DataError
from iopipe.protocols import Store

_MAGIC = b"PAR1"
_TAIL_BYTES = 8
_MAX_FOOTER_BYTES = 1 << 28
_HEADER_BYTES, _MAX_HEADER_BYTES = 256, 1 << 24
"""Most page headers have twenty; statistics of large values make them longer."""
_MAX_DEPTH = 32
_TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = 1, 2, 3, 7, 8, 9, 10, 11, 12
_INTEGERS = (4, 5, 6)
_DATA, _DICTIONARY, _DATA_V2 = 5, 7, 8
_PAGE_HEADERS = {_DATA: 2, _DICTIONARY: 2, _DATA_V2: 4}
"""Field of a page's own header -> field of its encoding in there."""

Read: TypeAlias = Callable[[int, int], bytes | memoryview]
"""(offset, length) -> the bytes of a file there, fewer only where it ends."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """The values of one leaf column in one row group."""

    column: str
    """The top-level column that it belongs to."""
    offset: int
    num_bytes: int
    num_unpacked_bytes: int
    num_values: int
    """Nulls and empty lists count."""
    kind: int
    """Number of its physical type in parquet.thrift."""
    codec: int


@dataclass(frozen=True, slots=True)
class Page:
    """A stretch of a column chunk that is unpacked as a whole."""

    offset: int
    """Of what is behind its header."""
    num_bytes: int
    num_unpacked_bytes: int
    num_values: int
    encoding: int
    is_dictionary: bool
    """Whether it holds the values that other pages name by their number."""


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


def read_pages(read: Read, chunk: Chunk) -> list[Page]:
    """The pages of a column chunk, as far as its values go; a `DataError` where one does not
    lie in it.  Only their headers are read."""
    pages: list[Page] = []
    place, end, num_values = chunk.offset, chunk.offset + chunk.num_bytes, 0
    while num_values < chunk.num_values and place < end:
        try:
            page = _page(read, place, end)
        except (KeyError, IndexError, ValueError, TypeError, AttributeError) as error:
            raise DataError(
                f"a page of column {chunk.column!r} is damaged ({error!r})", offset=place
            ) from error
        pages.append(page)
        place = page.offset + page.num_bytes
        num_values += 0 if page.is_dictionary else page.num_values
    return pages


def _page(read: Read, place: int, end: int) -> Page:
    length = _HEADER_BYTES
    while True:
        raw = _Compact(read(place, min(length, end - place)))
        try:
            header = raw.struct(0)
            break
        except (IndexError, ValueError):
            if length >= min(end - place, _MAX_HEADER_BYTES):
                raise
            length *= 8
    offset, num_bytes, num_unpacked_bytes = place + raw.place, header[3], header[2]
    if min(num_bytes, num_unpacked_bytes) < 0 or offset + num_bytes > end:
        raise ValueError(f"{num_bytes} bytes do not lie in its column")
    kind = next((kind for kind in _PAGE_HEADERS if kind in header), None)
    inner = header[kind] if kind is not None else {}
    num_values = inner.get(1, 0)
    if num_values < 0:
        raise ValueError(f"it has {num_values} values")
    encoding = inner.get(_PAGE_HEADERS[kind], 0) if kind is not None else 0
    is_dictionary = kind == _DICTIONARY
    return Page(offset, num_bytes, num_unpacked_bytes, num_values, encoding, is_dictionary)


def _row_group(raw: dict[int, Any], size: int) -> RowGroup:
    chunks = []
    for column in raw[1]:
        found = column[3]
        offset = min(found[9], found.get(11) or found[9])
        name, kind, codec = found[3][0].decode(), found[1], found[4]
        chunk = Chunk(name, offset, found[7], found[6], found[5], kind, codec)
        if min(offset, chunk.num_bytes, chunk.num_unpacked_bytes, chunk.num_values) < 0:
            raise ValueError(f"column {chunk.column!r} has a negative size or place")
        if offset + chunk.num_bytes > size:
            raise ValueError(f"column {chunk.column!r} lies outside of the file")
        chunks.append(chunk)
    if not 0 <= raw[3] < 1 << 62:
        raise ValueError(f"a row group has {raw[3]} rows")
    return RowGroup(raw[3], tuple(chunks))


class _Compact:
    """Reads Thrift's compact protocol into dicts of field numbers, and lists."""

    def __init__(self, data: bytes | memoryview) -> None:
        self._data = data
        self.place = 0
        """Behind what was read."""

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
        self.place += 1
        return self._data[self.place - 1]

    def _bytes(self, length: int) -> bytes | memoryview:
        start, self.place = self.place, self.place + length
        if self.place > len(self._data):
            raise ValueError("a text runs past the end")
        return self._data[start : self.place]

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
