"""The messages of an Arrow IPC file or stream: where each record batch lies, and how large
it becomes.

Stands under the Arrow reader, which leaves the decoding to pyarrow.  Invariant: what a batch
unpacks to is known, and checked, before anything is unpacked.

Source: Apache Arrow columnar format, encapsulated message format and IPC file format, with
Message.fbs (Message: header type 1, header 2, body length 3; RecordBatch: length 0, buffers 2,
compression 3; DictionaryBatch: data 1), File.fbs (Footer: dictionaries 2, record batches 3;
Block: offset, metadata length, body length), and the layout of FlatBuffers' tables.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from iopipe.errors import DataError

FILE_MAGIC = b"ARROW1"
STREAM_START = b"\xff\xff\xff\xff"
_FIRST_MESSAGE = 8
_TAIL_BYTES = 10
"""The length of the footer and the magic behind it."""
_BLOCK = struct.Struct("<qi4xq")
_DICTIONARY, _RECORD_BATCH = 2, 3
_NOT_PACKED = -1
_MAX_ROWS_A_BYTE = 8
"""Booleans; columns of nothing but nulls take less, but such rows are no samples."""


@dataclass(frozen=True, slots=True)
class BatchFrame:
    """A record batch or a dictionary of a file."""

    place: int
    """Of its message in the file, in bytes."""
    is_dictionary: bool
    num_rows: int
    is_packed: bool
    num_unpacked_bytes: int
    """Of all its buffers; those that are not compressed count as they are."""


class _Table:
    """A table of FlatBuffers; fields are asked for by their number."""

    def __init__(self, data: memoryview, place: int) -> None:
        self._data = data
        self._place = place
        self._fields = place - _number(data, "<i", place)

    def place(self, field: int) -> int | None:
        """Where a field's value lies; None where it has its default."""
        size = _number(self._data, "<H", self._fields)
        if 4 + 2 * field >= size:
            return None
        offset = _number(self._data, "<H", self._fields + 4 + 2 * field)
        return self._place + offset if offset else None

    def number(self, field: int, kind: str) -> int:
        place = self.place(field)
        return 0 if place is None else _number(self._data, kind, place)

    def table(self, field: int) -> _Table | None:
        place = self.place(field)
        if place is None:
            return None
        return _Table(self._data, place + _number(self._data, "<I", place))

    def pairs(self, field: int) -> list[tuple[int, int]]:
        """A vector of structs of two int64."""
        place = self.place(field)
        if place is None:
            return []
        start = place + _number(self._data, "<I", place)
        count = _number(self._data, "<I", start)
        if start + 4 + 16 * count > len(self._data):
            raise ValueError(f"{count} buffers do not fit")
        return list(struct.iter_unpack("<qq", self._data[start + 4 : start + 4 + 16 * count]))

    def blocks(self, field: int) -> list[int]:
        """The places of a vector of a footer's blocks: int64 place, int32 and int64 sizes."""
        place = self.place(field)
        if place is None:
            return []
        start = place + _number(self._data, "<I", place)
        count = _number(self._data, "<I", start)
        if start + 4 + _BLOCK.size * count > len(self._data):
            raise ValueError(f"{count} batches do not fit")
        end = start + 4 + _BLOCK.size * count
        return [offset for offset, _, _ in _BLOCK.iter_unpack(self._data[start + 4 : end])]


def _number(data: memoryview, kind: str, place: int) -> int:
    if place < 0:
        raise ValueError(f"{place} is no place in a message")
    value: int = struct.unpack_from(kind, data, place)[0]
    return value


def frames(content: memoryview, path: str) -> list[BatchFrame]:
    """The batches and dictionaries of a file or stream, in order."""
    try:
        return list(_frames(content))
    except (struct.error, ValueError) as error:
        raise DataError(
            f"it is no valid Arrow IPC file ({error}); write it again", shard=path
        ) from error


def check_footer(content: memoryview, found: list[BatchFrame], path: str) -> None:
    """A `DataError` where the footer of a file, which is what pyarrow reads by, lists other
    messages than those that lie one after the other in it: nobody would have looked at them.
    """
    try:
        (length,) = struct.unpack_from("<i", content, len(content) - _TAIL_BYTES)
        footer = content[len(content) - _TAIL_BYTES - length : len(content) - _TAIL_BYTES]
        table = _Table(footer, _number(footer, "<I", 0))
        listed = [table.blocks(field) for field in (2, 3)]
    except (struct.error, ValueError) as error:
        raise DataError(f"its footer is damaged ({error}); write it again", shard=path) from error
    for places, is_dictionary in zip(listed, (True, False), strict=True):
        if places != [frame.place for frame in found if frame.is_dictionary == is_dictionary]:
            raise DataError("its footer lists other batches than it has", shard=path)


def _frames(content: memoryview) -> Iterator[BatchFrame]:
    is_file = bytes(content[: len(FILE_MAGIC)]) == FILE_MAGIC
    place = _FIRST_MESSAGE if is_file else 0
    while place + 8 <= len(content):
        marker, size = struct.unpack_from("<Ii", content, place)
        if marker != 0xFFFFFFFF:  # a stream of Arrow 0.14 or older, or the footer of a file
            if is_file:
                return
            raise ValueError("a message does not start with its marker")
        if size == 0:
            return
        body = place + 8 + size
        if size < 0 or body > len(content):
            raise ValueError("a message runs past the end")
        metadata = content[place + 8 : body]
        message = _Table(metadata, _number(metadata, "<I", 0))
        length = message.number(3, "<q")
        if length < 0 or body + length > len(content):
            raise ValueError("the body of a message runs past the end")
        kind, header = message.number(1, "<B"), message.table(2)
        if kind in (_DICTIONARY, _RECORD_BATCH) and header is not None:
            batch = header if kind == _RECORD_BATCH else header.table(1)
            if batch is not None:
                yield _frame(place, batch, content[body : body + length], kind == _DICTIONARY)
        place = body + length


def _frame(place: int, batch: _Table, body: memoryview, is_dictionary: bool) -> BatchFrame:
    is_packed = batch.place(3) is not None
    num_rows = batch.number(0, "<q")
    total = 0
    for offset, length in batch.pairs(2):
        if offset < 0 or length < 0 or offset + length > len(body):
            raise ValueError("a buffer lies outside of its batch")
        if is_packed and length >= 8:
            unpacked = _number(body, "<q", offset)
            total += length - 8 if unpacked == _NOT_PACKED else unpacked
            if unpacked < _NOT_PACKED:
                raise ValueError(f"a buffer unpacks to {unpacked} bytes")
        else:
            total += length
    if not 0 <= num_rows <= _MAX_ROWS_A_BYTE * total:
        raise ValueError(f"a batch of {total} bytes has {num_rows} rows")
    return BatchFrame(place, is_dictionary, num_rows, is_packed, total)
