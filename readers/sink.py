"""The file that an encoder writes to: hashed on the way, large pieces not copied.

Stands between encoders and the operating system.  Invariant: bytes reach the file in the
order of the writes, and the checksum is that of all of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any

import xxhash

_PENDING_BYTES = 1 << 20
_MAX_PIECES = 512
"""Below IOV_MAX, which is 1024."""


class HashedFile:
    """A new file, as far as encoders use one."""

    def __init__(self, path: Path, *, is_behind: bool = False) -> None:
        """`is_behind` has a thread do what takes long, one flush at a time."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        self._descriptor = os.open(path, flags, 0o666)
        self._hash = xxhash.xxh3_64()
        self._pieces: list[bytes] = []
        self._num_pending = 0
        self._behind = _Behind(self._put) if is_behind else None
        self.num_bytes = 0
        self.closed = False

    def write(self, data: Any) -> int:
        """Take `data` to be written soon; bytes are kept as they are, anything else, which
        its owner may change, is copied.  Nothing is taken once the file is closed: a library
        that was writing when it was discarded may still end its format when it is collected."""
        if self.closed:
            return len(data)
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
        """Write what is pending, or have it written: what failed behind is raised now."""
        pieces, self._pieces = self._pieces, []
        num_bytes, self._num_pending = self._num_pending, 0
        if self._behind is None:
            self._put(pieces, num_bytes)
        else:
            self._behind.put(pieces, num_bytes)

    def _put(self, pieces: list[bytes], rest: int) -> None:
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
            if self._behind is not None:
                self._behind.wait()
        finally:
            self.discard()

    def discard(self) -> None:
        """Close without writing what is pending."""
        if not self.closed:
            self.closed = True
            if self._behind is not None:
                self._behind.end()
            os.close(self._descriptor)

    @property
    def checksum(self) -> str:
        """XXH3-64 of what was written so far, 16 hex digits."""
        return self._hash.hexdigest()


class _Behind:
    """A thread that writes one set of pieces while the next one is made.

    Two queues and no future: what is handed over thousands of times a second must cost few
    turns of the interpreter lock.
    """

    def __init__(self, put: Callable[[list[bytes], int], None]) -> None:
        self._put = put
        self._given: SimpleQueue[tuple[list[bytes], int] | None] = SimpleQueue()
        self._outcomes: SimpleQueue[BaseException | None] = SimpleQueue()
        self._is_busy = False
        self._thread = Thread(target=self._run, name="iopipe-behind", daemon=True)
        self._thread.start()

    def put(self, pieces: list[bytes], num_bytes: int) -> None:
        """Have them written; waits for those before, and raises what became of them."""
        self.wait()
        self._is_busy = True
        self._given.put((pieces, num_bytes))

    def wait(self) -> None:
        if self._is_busy:
            error = self._outcomes.get()
            self._is_busy = False
            if error is not None:
                raise error

    def end(self) -> None:
        """Join the thread; a write that is under way ends first, its outcome is dropped."""
        self._given.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (given := self._given.get()) is not None:
            try:
                self._put(*given)
            except BaseException as error:  # raised by whoever waits
                self._outcomes.put(error)
            else:
                self._outcomes.put(None)
