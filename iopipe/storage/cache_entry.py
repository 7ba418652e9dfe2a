"""One entry of a disk cache: content, then a trailer that proves it.

Stands below `storage.cache_folder`.  Invariant: what passes `is_whole` is what `write_entry` was
given under the same name.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct

import xxhash

_MAGIC = b"iopipeC1"
_TRAILER = struct.Struct("<8sQQQ")
"""Magic, bytes of content, XXH3-64 of the content, XXH3-64 of the name."""
TRAILER_BYTES = _TRAILER.size


class Entry:
    """An entry that is open: it is not evicted until `close`."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill the buffer from `offset` on; the caller asks for nothing beyond the entry."""
        done = 0
        while done < len(buffer):
            count = os.preadv(self._descriptor, [buffer[done:]], offset + done)
            if count == 0:
                raise OSError(errno.EIO, "a cache entry became shorter while it was read")
            done += count

    def close(self) -> None:
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)  # for children forked meanwhile, too
        os.close(self._descriptor)


def _trailer(name: str, content: memoryview) -> bytes:
    of_content = xxhash.xxh3_64_intdigest(content)
    return _TRAILER.pack(_MAGIC, len(content), of_content, xxhash.xxh3_64_intdigest(name))


def is_whole(name: str, descriptor: int, num_bytes: int) -> bool:
    """Whether the file of `num_bytes` is the entry of that name, as it was written."""
    length = num_bytes - TRAILER_BYTES
    if length < 0:
        return False
    buffer = memoryview(bytearray(num_bytes))
    done = 0
    while done < num_bytes:
        count = os.preadv(descriptor, [buffer[done:]], done)
        if count == 0:
            return False
        done += count
    return bytes(buffer[length:]) == _trailer(name, buffer[:length])


def write_entry(descriptor: int, name: str, content: memoryview) -> None:
    """Content and trailer into an empty file."""
    _write(descriptor, content)
    _write(descriptor, memoryview(_trailer(name, content)))


def _write(descriptor: int, content: memoryview) -> None:
    while content:
        content = content[os.write(descriptor, content) :]
