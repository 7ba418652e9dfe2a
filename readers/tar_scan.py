"""Finds the members of a local tar archive: many headers at a time.

Stands beside `readers.tar`, whose `walk` is its naive twin.  Invariant: it reports what the
walk reports; a header that is anything but plain is left to the walk.

One loop in Python follows the chain from header to header, since each says where the next
one is; what it passed is then checked for all headers at once.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from iopipe.protocols import Int64Array, Store
from iopipe.readers.tar import (
    BLOCK_BYTES,
    MAX_EXTENSION_BYTES,
    Member,
    TarDamage,
    extend,
    walk,
)

_NEAR_BYTES = 1 << 15
"""What is read at once where members are small; else one header, because copying the
members between costs more than another read."""
_NEAR_MEMBER_BYTES = 4096
_RUN_HEADERS = 1 << 12
"""Headers that are checked together; more would not stay in the cache."""
_WALKED_MEMBERS = 256
_SUM_ROWS = 1 << 9
_EVEN_BYTES = np.uint64(0x00FF00FF00FF00FF)
_FILE, _OLD_FILE, _EXTENDED = ord("0"), 0, ord("x")


@dataclass(frozen=True, slots=True)
class Members:
    """The regular files of an archive, in its order; names are those of `Member`."""

    names: list[pa.Array[Any] | list[str]]
    """In pieces: UTF-8 strings as they were scanned, or as the walk gave them."""
    offsets: Int64Array
    lengths: Int64Array
    damage: TarDamage | None

    def __iter__(self) -> Iterator[Member]:
        names = (str(name) for piece in self.names for name in _listed(piece))
        places = zip(self.offsets.tolist(), self.lengths.tolist(), strict=True)
        return (Member(name, *place) for name, place in zip(names, places, strict=True))


def scan(store: Store, path: str) -> Members:
    """All members of an archive; a local one is scanned, another one walked."""
    names: list[pa.Array[Any] | list[str]] = []
    places: list[npt.NDArray[np.int64]] = [np.empty((0, 2), np.int64)]
    local = store.local_path(path)
    offset = 0
    while True:
        if local is not None:
            run = _scan_run(local, offset)
            names.append(run.names)
            places.append(run.places)
            offset = run.end
            if run.is_full:
                continue
        walked = list(islice(walk(store, path, offset), None if local is None else _WALKED_MEMBERS))
        members = [item for item in walked if isinstance(item, Member)]
        if members:
            names.append([member.name for member in members])
        places.append(np.array([(m.offset, m.num_bytes) for m in members], np.int64).reshape(-1, 2))
        if len(walked) < _WALKED_MEMBERS or local is None or len(members) < len(walked):
            damage = walked[-1] if walked and isinstance(walked[-1], TarDamage) else None
            table = np.concatenate(places)
            return Members(names, table[:, 0], table[:, 1], damage)
        offset = members[-1].offset + -(-members[-1].num_bytes // BLOCK_BYTES) * BLOCK_BYTES


@dataclass(frozen=True, slots=True)
class _Run:
    names: pa.Array[Any]
    places: npt.NDArray[np.int64]
    """[n, 2]: offset and length of the data."""
    end: int
    """Where the header after the last of them starts."""
    is_full: bool
    """It ended because it was long enough."""


def _scan_run(path: str, offset: int) -> _Run:
    """The plain members from the header at `offset` on, up to the first that is not."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        headers, starts, lengths = _follow(descriptor, offset)
    finally:
        os.close(descriptor)
    table = np.frombuffer(b"".join(headers), np.uint8).reshape(-1, BLOCK_BYTES)
    is_plain = _is_plain(table)
    count = len(table) if is_plain.all() else int(np.argmin(is_plain))
    places = np.empty((count, 2), np.int64)
    places[:, 0], places[:, 1] = starts[:count], lengths[:count]
    places[:, 0] += BLOCK_BYTES
    end = int(places[-1].sum() + -places[-1, 1] % BLOCK_BYTES) if count else offset
    is_file = table[:count, 156] != _EXTENDED
    names = _names(table[:count] if is_file.all() else table[:count][is_file])
    if names is None:
        return _Run(pa.array([], pa.string()), np.empty((0, 2), np.int64), offset, False)
    return _Run(names, places[is_file], end, count == _RUN_HEADERS)


def _follow(descriptor: int, offset: int) -> tuple[list[bytes], list[int], list[int]]:
    """Headers from header to header, where they start and how many bytes follow them: those
    of regular files, and extended ones that do not matter.

    Ends at whatever is not plain: other kinds, sizes that are no octal number, members
    that run past the end, extended headers that rename or resize the next member.
    """
    headers: list[bytes] = []
    starts: list[int] = []
    lengths: list[int] = []
    pread = os.pread  # looked up once: this loop is what an index of a large archive costs
    num_bytes = os.fstat(descriptor).st_size
    window, start, length = b"", 0, 0
    while len(headers) < _RUN_HEADERS:
        if length >= _NEAR_MEMBER_BYTES:
            header = pread(descriptor, BLOCK_BYTES, offset)
        else:
            if not start <= offset <= start + len(window) - BLOCK_BYTES:
                window, start = pread(descriptor, _NEAR_BYTES, offset), offset
            header = window[offset - start : offset - start + BLOCK_BYTES]
        try:
            length = int(header[124:135], 8)
            kind = header[156]
        except (ValueError, IndexError):
            break
        end = offset + BLOCK_BYTES + length
        if length < 0 or end > num_bytes:
            break
        if kind != _FILE and kind != _OLD_FILE:
            if kind != _EXTENDED or not _is_idle(descriptor, offset + BLOCK_BYTES, length):
                break
        headers.append(header)
        starts.append(offset)
        lengths.append(length)
        offset = end + 511 & -512
    return headers, starts, lengths


def _is_idle(descriptor: int, offset: int, length: int) -> bool:
    """Whether a pax header is in order and neither renames nor resizes what follows."""
    if length > MAX_EXTENSION_BYTES:
        return False
    content = os.pread(descriptor, length, offset)
    extensions: dict[str, str] = {}
    try:
        extend(extensions, b"x", content)
    except ValueError:
        return False
    return len(content) == length and not extensions.keys() & {"path", "size"}


def _is_plain(table: npt.NDArray[np.uint8]) -> Any:
    """bool [n]: which headers have a right checksum, a size in octal digits, and no prefix."""
    size, stored = table[:, 124:135], table[:, 148:154]
    is_plain = ((size >= ord("0")) & (size <= ord("7"))).all(axis=1)
    is_plain &= (table[:, 135] == 0) | (table[:, 135] == ord(" "))
    is_plain &= (table[:, 345] == 0) & (table[:, 0] != 0) & (table[:, 154] == 0)
    sums = _sums(table) + 8 * ord(" ") - table[:, 148:156].sum(axis=1, dtype=np.uint16)
    for place in range(6):
        is_plain &= stored[:, 5 - place] == (sums >> (3 * place) & 7) + ord("0")
    return is_plain


def _sums(table: npt.NDArray[np.uint8]) -> Int64Array:
    """The sum of each row's bytes, eight at a time: the bytes of a word are added in four
    lanes of 16 bits, which 64 words of a header cannot overflow (64 * 2 * 255 < 2**16)."""
    sums = np.empty(len(table), np.int64)
    for first in range(0, len(table), _SUM_ROWS):
        words = table[first : first + _SUM_ROWS].view(np.uint64)
        lanes = (words & _EVEN_BYTES) + (words >> np.uint64(8) & _EVEN_BYTES)
        totals = lanes.sum(axis=1, dtype=np.uint64)
        sums[first : first + _SUM_ROWS] = totals.view(np.uint16).reshape(-1, 4).sum(axis=1)
    return sums


def _names(table: npt.NDArray[np.uint8]) -> pa.Array[Any] | None:
    """The names of plain headers; None where one is not UTF-8."""
    field = np.concatenate([table[:, :100], np.zeros((len(table), 1), np.uint8)], axis=1)
    lengths = (field == 0).argmax(axis=1)
    content = field[np.arange(101) < lengths[:, None]]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    buffers = [None, pa.py_buffer(offsets.tobytes()), pa.py_buffer(content.tobytes())]
    names = pa.Array.from_buffers(pa.string(), len(table), buffers)
    try:
        names.validate(full=True)
    except pa.ArrowInvalid:
        return None
    return names


def _listed(piece: pa.Array[Any] | list[str]) -> list[Any]:
    return piece if isinstance(piece, list) else piece.to_pylist()
