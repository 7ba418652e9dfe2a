"""Pages of real Parquet files, found the way a reader finds them.

Source: Apache Parquet format, README.md and parquet.thrift; Apache Thrift compact protocol.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq


@dataclass(frozen=True)
class DataPage:
    """A data page of an optional flat column, dictionary encoded, not compressed."""

    levels: bytes
    codes: bytes
    bit_width: int
    num_rows: int


def pages_of(path: Path, column: int) -> tuple[bytes, list[DataPage]]:
    """The bytes of the dictionary page and the data pages of all row groups' first chunk."""
    content = path.read_bytes()
    chunk = pq.ParquetFile(path).metadata.row_group(0).column(column)
    position = chunk.dictionary_page_offset
    end = position + chunk.total_compressed_size
    dictionary, pages = b"", []
    while position < end:
        header, start = _struct(content, position)
        position = start + header[3]
        body = content[start:position]
        if header[1] == 2:
            dictionary = body
        else:
            pages.append(_data_page(header, body))
    return dictionary, pages


def _data_page(header: dict[int, Any], body: bytes) -> DataPage:
    if header[1] == 3:
        split = header[8][5]
        return DataPage(body[:split], body[split + 1 :], body[split], header[8][1])
    split = 4 + int.from_bytes(body[:4], "little")
    return DataPage(body[4:split], body[split + 1 :], body[split], header[5][1])


def _varint(content: bytes, position: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = content[position]
        position += 1
        number |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return number, position


def _struct(content: bytes, position: int) -> tuple[dict[int, Any], int]:
    """The fields of a struct by number, and where it ends."""
    fields: dict[int, Any] = {}
    number = 0
    while content[position]:
        kind, delta = content[position] & 15, content[position] >> 4
        position += 1
        if delta:
            number += delta
        else:
            number, position = next(_zigzag(content, position))
        fields[number], position = _value(content, position, kind)
    return fields, position + 1


def _zigzag(content: bytes, position: int) -> Iterator[tuple[int, int]]:
    raw, position = _varint(content, position)
    yield raw >> 1 ^ -(raw & 1), position


def _value(content: bytes, position: int, kind: int) -> tuple[Any, int]:
    if kind in (1, 2):
        return kind == 1, position
    if kind in (4, 5, 6):
        return next(_zigzag(content, position))
    if kind == 8:
        size, position = _varint(content, position)
        return content[position : position + size], position + size
    if kind == 12:
        return _struct(content, position)
    raise ValueError(f"a page header with a field of type {kind}")
