"""What a row group of a Parquet file decodes to, judged by the headers of its pages.

Stands between the footer and pyarrow, which believes what pages say of themselves.  Invariant:
no row group is decoded of which more than the limit could come.

Values become larger than their pages where they are named by number (dictionaries) or made of
pieces of the one before (DELTA_BYTE_ARRAY): there a value is counted as the largest that it can
be.  Source: Apache Parquet format, Encodings.md.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from iopipe.readers.parquet_footer import Chunk, Page, Read, read_pages

_WIDTHS = {0: 1, 1: 4, 2: 8, 3: 8, 4: 4, 5: 8}
"""Bytes of a decoded value, by physical type: booleans, int32, int64, int96 (becomes int64),
float, double.  The others are bytes of any or of one length."""
_BYTES = 6
_AS_THEY_ARE = (0, 6, 9)
"""PLAIN, DELTA_LENGTH_BYTE_ARRAY and BYTE_STREAM_SPLIT take what their values take."""
_BY_NUMBER = (2, 8)
_OFFSET_BYTES = 5
"""Of a value of any length besides its bytes: int32, and whether it is null."""
_CODECS: dict[int, Any] = {1: "snappy", 2: "gzip", 4: "brotli", 6: "zstd", 7: "lz4_raw"}


@dataclass(frozen=True, slots=True)
class Bound:
    """What one column chunk can at most decode to, in bytes."""

    num_unpacked_bytes: int
    """Of its pages."""
    num_plain_bytes: int
    """Of the values whose size is that of their pages."""
    num_named: int
    """The other values."""
    value_bytes: int
    """Of the largest of these."""
    has_a_value_a_row: bool

    @property
    def num_bytes(self) -> int:
        return self.num_plain_bytes + self.num_named * self.value_bytes


def plan_steps(
    read: Read, chunks: Sequence[Chunk], num_rows: int, limit: int
) -> tuple[int, int | None]:
    """(bytes that the chunks can at most decode to, rows to decode at once).

    Rows are given where so many at a time may be less than `limit` together, although all could
    be more.  `read` gives bytes of the file: headers, and the values of dictionaries only where
    these are what may become too large.
    """
    pages = [read_pages(read, chunk) for chunk in chunks]
    both = list(zip(chunks, pages, strict=True))
    bounds = [_bound(chunk, found, num_rows, _named_bytes(found)) for chunk, found in both]
    num_unpacked_bytes = sum(bound.num_unpacked_bytes for bound in bounds)
    if num_unpacked_bytes > limit:
        return num_unpacked_bytes, None
    if sum(bound.num_bytes for bound in bounds) > limit:
        bounds = [
            _bound(chunk, found, num_rows, _largest(read, chunk, found)) for chunk, found in both
        ]
    num_bytes = sum(bound.num_bytes for bound in bounds)
    if num_bytes <= limit:
        return num_bytes, None
    even = [bound for bound in bounds if bound.has_a_value_a_row]
    whole = sum(b.num_bytes for b in bounds if not b.has_a_value_a_row)
    whole += sum(b.num_plain_bytes for b in even)
    if whole > limit:
        return num_bytes, None
    row_bytes = sum(bound.value_bytes for bound in even if bound.num_named)
    return num_bytes, max(1, (limit - whole) // (4 * row_bytes))


def _bound(chunk: Chunk, pages: Sequence[Page], num_rows: int, value_bytes: int) -> Bound:
    plain = named = largest = num_values = 0
    for page in pages:
        if page.is_dictionary:
            continue
        num_values += page.num_values
        if chunk.kind in _WIDTHS:
            plain += page.num_values * _WIDTHS[chunk.kind]
        elif page.encoding in _AS_THEY_ARE:
            plain += page.num_unpacked_bytes + page.num_values * _OFFSET_BYTES
        else:
            by_number = page.encoding in _BY_NUMBER
            named += page.num_values
            largest = max(largest, value_bytes if by_number else page.num_unpacked_bytes)
    missing = max(0, num_rows - num_values)  # pyarrow makes room for as many as the footer says
    plain += missing * _WIDTHS.get(chunk.kind, _OFFSET_BYTES)
    return Bound(
        num_unpacked_bytes=sum(page.num_unpacked_bytes for page in pages),
        num_plain_bytes=plain,
        num_named=named,
        value_bytes=largest + _OFFSET_BYTES if named else 0,
        has_a_value_a_row=num_values == num_rows,
    )


def _named_bytes(pages: Sequence[Page]) -> int:
    """No value of a dictionary is larger than all together."""
    return max((page.num_unpacked_bytes for page in pages if page.is_dictionary), default=0)


def _largest(read: Read, chunk: Chunk, pages: Sequence[Page]) -> int:
    """Bytes of the largest value of a dictionary, which is unpacked for that."""
    largest = 0
    for page in pages:
        if not page.is_dictionary:
            continue
        if chunk.kind != _BYTES:  # all of one length
            return -(-page.num_unpacked_bytes // max(1, page.num_values))
        if chunk.codec and chunk.codec not in _CODECS:
            return page.num_unpacked_bytes
        content = read(page.offset, page.num_bytes)
        if chunk.codec:
            packed, size = pa.py_buffer(content), page.num_unpacked_bytes
            content = memoryview(pa.decompress(packed, size, codec=_CODECS[chunk.codec]))
        place = 0
        while place + 4 <= len(content):
            (length,) = struct.unpack_from("<I", content, place)
            largest, place = max(largest, length), place + 4 + length
    return largest
