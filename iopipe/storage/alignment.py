"""What O_DIRECT demands of addresses and offsets, and how a request is cut to suit it.

Stands between the stores that go round the page cache and the kernel.  Invariant: the pieces
of a request cover it once, in order, and each is one that the kernel takes.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from iopipe.errors import StorageError

# include/uapi/linux/stat.h and fcntl.h; the fields are there since Linux 6.1.
_STATX_DIOALIGN = 0x2000
_AT_EMPTY_PATH = 0x1000
_STATX_BYTES = 256
_DIO_MEM_ALIGN_AT = 0x98
_DIO_OFFSET_ALIGN_AT = 0x9C

_MOST_BYTES = 1 << 30
"""A call reads no more than 0x7ffff000 bytes, see read(2)."""


@dataclass(frozen=True, slots=True)
class Alignment:
    """Powers of two, in bytes."""

    memory: int
    """Of the address that is read into."""
    offset: int
    """Of the offset in the file and of the length."""

    def check_fits(self, bounce_bytes: int, path: str) -> None:
        """Refuse a file whose blocks the bounce buffers, page-aligned, cannot hold."""
        if self.memory > mmap.PAGESIZE or bounce_bytes % self.offset:
            raise StorageError(
                f"cannot read {path!r} with O_DIRECT: it wants {self.memory} and {self.offset} "
                f"bytes of alignment, bounce_bytes is {bounce_bytes}; give a multiple of "
                "them, or use prefer='posix'"
            )


NONE = Alignment(1, 1)
"""What a read through the page cache demands."""

ASSUMED = Alignment(4096, 4096)
"""Where statx(2) does not say (before Linux 6.1, tmpfs, overlays): no block device that a
page can hold has larger blocks."""


class Piece(NamedTuple):
    """One read of a request; a tuple, because one is made for every 4 KB."""

    offset: int
    """In the file; aligned."""
    length: int
    """Aligned; may lead past the end of the file."""
    skip: int
    """Bytes at its beginning that nobody asked for."""
    start: int
    """Where in the request's buffer its first wanted byte goes."""
    wanted: int
    """Bytes of it that were asked for."""
    in_place: bool
    """Whether it may be read straight into the request's buffer."""

    def gained(self, num_bytes: int) -> int:
        """How many of the wanted bytes a read of `num_bytes` brought."""
        return min(max(0, num_bytes - self.skip), self.wanted)

    def rest(self, num_bytes: int, align: int) -> Piece | None:
        """What is left after a read of `num_bytes`; None where nothing is, or the file ended.

        A count that is no multiple of `align` is the end of the file: only there does a
        direct read stop inside a block.
        """
        done = self.gained(num_bytes)
        if done == self.wanted or num_bytes == 0 or num_bytes % align:
            return None
        return Piece(
            self.offset + num_bytes,
            self.length - num_bytes,
            max(0, self.skip - num_bytes),
            self.start + done,
            self.wanted - done,
            self.in_place,
        )


def ask_alignment(fd: int, path: str) -> Alignment:
    """What the file behind `fd`, open with O_DIRECT, demands, see STATX_DIOALIGN in statx(2);
    `StorageError` where its filesystem serves no direct reads."""
    answer = ctypes.create_string_buffer(_STATX_BYTES)
    if _statx()(fd, b"", _AT_EMPTY_PATH, _STATX_DIOALIGN, answer) != 0:
        return ASSUMED
    if not _number(answer.raw, 0) & _STATX_DIOALIGN:
        return ASSUMED
    memory, offset = (_number(answer.raw, at) for at in (_DIO_MEM_ALIGN_AT, _DIO_OFFSET_ALIGN_AT))
    if not memory or not offset:
        raise no_direct_reads(path)
    return Alignment(memory, offset)


def no_direct_reads(path: str) -> StorageError:
    return StorageError(
        f"cannot open {path!r} with O_DIRECT: its filesystem serves no direct reads; "
        "use prefer='posix' for it"
    )


def pieces(
    offset: int, length: int, *, address: int, alignment: Alignment, bounce_bytes: int
) -> Iterator[Piece]:
    """The reads that bring `length` bytes at `offset` to `address`.

    Whole blocks whose place in the buffer is aligned are read there, all in one; the rest
    goes through bounce buffers of `bounce_bytes`, a multiple of the alignment.
    """
    align = alignment.offset
    done = 0
    while done < length:
        position = offset + done
        skip = position % align
        whole = min(length - done, _MOST_BYTES) // align * align
        if not skip and whole and (address + done) % alignment.memory == 0:
            yield Piece(position, whole, 0, done, whole, True)
            done += whole
            continue
        wanted = min(length - done, bounce_bytes - skip)
        if skip and (address + done + align - skip) % alignment.memory == 0:
            wanted = min(wanted, align - skip)
        yield Piece(
            position - skip, -(-(skip + wanted) // align) * align, skip, done, wanted, False
        )
        done += wanted


def address_of(buffer: memoryview) -> int:
    """Of the first byte; `buffer` is writable and not empty."""
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))


def _number(answer: bytes, at: int) -> int:
    return int.from_bytes(answer[at : at + 4], sys.byteorder)


@functools.cache
def _statx() -> Any:
    call = ctypes.CDLL(None, use_errno=True).statx
    call.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p]
    return call
