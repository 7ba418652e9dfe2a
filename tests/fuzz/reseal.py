"""Makes the checksums of damaged bytes right again, so that what lies behind them is reached.

Stands beside `mutate`.  Invariant: bytes whose checksums are right already stay as they are;
bytes too damaged to have a place for a checksum, too.
"""

from __future__ import annotations

import hashlib
import struct

import google_crc32c
import xxhash

_BLOCK_BYTES = 512


def reseal_tar(data: bytes) -> bytes:
    """The checksum of every header, found from size to size."""
    content = bytearray(data)
    place = 0
    while place + _BLOCK_BYTES <= len(content):
        header = content[place : place + _BLOCK_BYTES]
        if any(header):
            header[148:156] = b" " * 8
            content[place + 148 : place + 156] = b"%06o\0 " % sum(header)
        digits = bytes(header[124:136]).strip(b"\0 ")
        size = int(digits, 8) if digits and not digits.strip(b"01234567") else 0
        place += _BLOCK_BYTES + -(-size // _BLOCK_BYTES) * _BLOCK_BYTES
    return bytes(content)


def reseal_tfrecord(data: bytes) -> bytes:
    """Both checksums of every record, found from length to length."""
    content = bytearray(data)
    place = 0
    while place + 12 <= len(content):
        (length,) = struct.unpack_from("<Q", content, place)
        struct.pack_into("<I", content, place + 8, _masked(content[place : place + 8]))
        end = place + 12 + length
        if end + 4 > len(content):
            break
        struct.pack_into("<I", content, end, _masked(content[place + 12 : end]))
        place = end + 4
    return bytes(content)


def _masked(content: bytes | bytearray) -> int:
    crc: int = google_crc32c.value(bytes(content))
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def reseal_index(data: bytes) -> bytes:
    """The checksum in front of an index sidecar."""
    return hashlib.blake2b(data[16:], digest_size=16).digest() + data[16:]


def reseal_checksums(data: bytes) -> bytes:
    """Count and checksum in the header of a sidecar of checksums."""
    if len(data) < 40:
        return data
    body = data[40:]
    return data[:24] + struct.pack("<QQ", len(body) // 16, xxhash.xxh3_64_intdigest(body)) + body
