"""The file that an encoder writes to: hashed on the way, large pieces not copied.

Stands between encoders and the operating system.  Invariant: bytes reach the file in the
order of the writes, and the checksum is that of all of them.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import xxhash

_PENDING_BYTES = 1 << 20
_MAX_PIECES = 512
"""Below IOV_MAX, which is 1024."""


class HashedFile:
    """A new file, as far as encoders use one."""

    def __init__(self, path: Path) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        self._descriptor = os.open(path, flags, 0o666)
        self._hash = xxhash.xxh3_64()
        self._pieces: list[bytes] = []
        self._num_pending = 0
        self.num_bytes = 0
        self.closed = False

    def write(self, data: Any) -> int:
        """Take `data` to be written soon; bytes are kept as they are, anything else, which
        its owner may change, is copied."""
        piece = data if isinstance(data, bytes) else bytes(data)
        self._hash.update(piece)
        self._pieces.append(piece)
        self._num_pending += len(piece)
        self.num_bytes += len(piece)
        if self._num_pending >= _PENDING_BYTES or len(self._pieces) >= _MAX_PIECES:
            self.flush()
        return len(piece)

    def tell(self) -> int:
        return self.num_bytes

    def flush(self) -> None:
        pieces, self._pieces = self._pieces, []
        rest, self._num_pending = self._num_pending, 0
        while rest:
            num_written = os.writev(self._descriptor, pieces)
            rest -= num_written
            if not rest:
                return
            while pieces and num_written >= len(pieces[0]):
                num_written -= len(pieces.pop(0))
            if num_written:
                pieces[0] = pieces[0][num_written:]

    def close(self) -> None:
        """Write what is pending; the descriptor is closed in any case."""
        if self.closed:
            return
        try:
            self.flush()
        finally:
            self.discard()

    def discard(self) -> None:
        """Close without writing what is pending."""
        if not self.closed:
            self.closed = True
            os.close(self._descriptor)

    @property
    def checksum(self) -> str:
        """XXH3-64 of what was written so far, 16 hex digits."""
        return self._hash.hexdigest()
