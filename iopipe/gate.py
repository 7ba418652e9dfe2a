"""How far work may run ahead of the oldest batch that was not delivered.

Stands in front of the read where batches may overtake each other.  Invariant: of the batches
that were let in and have not left, the newest is less than `window` behind the oldest.
"""

from __future__ import annotations

import threading

from iopipe.edge import Closed


class Gate:
    """Thread-safe; batches enter by ascending numbers and leave in any order."""

    def __init__(self, window: int) -> None:
        self._window = window
        self._oldest = 0
        self._left: set[int] = set()
        self._closed = False
        # Reentrant, as the lock of an edge is.
        self._moved = threading.Condition(threading.RLock())

    def enter(self, number: int) -> None:
        """Blocks while `number` is too far ahead; raises `Closed` once the gate is closed."""
        with self._moved:
            while not self._closed and number >= self._oldest + self._window:
                self._moved.wait()
            if self._closed:
                raise Closed("gate")

    def leave(self, number: int) -> None:
        with self._moved:
            self._left.add(number)
            while self._oldest in self._left:
                self._left.remove(self._oldest)
                self._oldest += 1
            self._moved.notify_all()

    def close(self) -> None:
        """Wake everyone who waits with `Closed`; idempotent."""
        with self._moved:
            self._closed = True
            self._moved.notify_all()
