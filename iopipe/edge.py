"""The bounded queue between two stages.

Stands between the threads of one stage and those of the next.  Invariant: items leave in
the order of their sequence numbers, however the threads that made them finished, unless the
edge was told to let go of what is there; at most `capacity` of them wait.
"""

from __future__ import annotations

import threading
import time
from typing import Generic, TypeVar

from iopipe.meter.edges import EdgeStats

T = TypeVar("T")


class Closed(Exception):
    """The edge was closed: whoever waits on it has nothing left to do."""


class Edge(Generic[T]):
    """Puts by sequence number, gets in order; blocking, thread-safe, cancellable.

    A put of number s waits until s < (next number out) + capacity.  The item that the
    consumer needs next is therefore always let in, and a slow item cannot be locked out
    by fast ones behind it: with any number of threads there is no deadlock.

    With `in_order=False` a put waits until fewer than `capacity` items are there, and a get
    takes the lowest number of those.
    """

    def __init__(self, name: str, capacity: int, *, in_order: bool = True) -> None:
        self.name = name
        self.stats = EdgeStats(name, capacity)
        self._capacity = capacity
        self._items: dict[int, T] = {}
        self._in_order = in_order
        self._num_out = 0
        self._end: int | None = None
        self._closed = False
        # Reentrant: a dropped run may be collected, and so closed, inside these very methods.
        lock = threading.RLock()
        self._may_put = threading.Condition(lock)
        self._may_get = threading.Condition(lock)

    def put(self, sequence: int, item: T) -> None:
        """Blocks while the window is full; raises `Closed` once the edge is closed."""
        start_ns = time.perf_counter_ns()
        with self._may_put:
            while not (self._closed or self._has_room(sequence)):
                self._may_put.wait()
            if self._closed:
                raise Closed(self.name)
            self._items[sequence] = item
            now_ns = time.perf_counter_ns()
            self.stats.on_put(now_ns - start_ns, len(self._items), now_ns)
            if not self._in_order or sequence == self._num_out:
                self._may_get.notify_all()

    def get(self) -> tuple[int, T] | None:
        """The next item with its number; None at the end; `Closed` once closed."""
        start_ns = time.perf_counter_ns()
        with self._may_get:
            while not self._closed and (sequence := self._next()) is None:
                if self._num_out == self._end:
                    return None
                self._may_get.wait()
            if self._closed or sequence is None:
                raise Closed(self.name)
            item = self._items.pop(sequence)
            self._num_out += 1
            now_ns = time.perf_counter_ns()
            self.stats.on_get(now_ns - start_ns, len(self._items), now_ns)
            self._may_put.notify_all()
            if self._next() is not None or self._num_out == self._end:
                self._may_get.notify_all()
            return sequence, item

    def end(self, num_items: int) -> None:
        """Say that the items 0 .. num_items-1 are all there will ever be."""
        with self._may_get:
            self._end = num_items
            self._may_get.notify_all()

    def resize(self, capacity: int) -> None:
        """Let so many items wait from now on; what waits already stays."""
        with self._may_put:
            self._capacity = capacity
            self.stats.resize(capacity)
            self._may_put.notify_all()

    @property
    def num_items(self) -> int:
        """How many items there were in all; known once `get` has returned None."""
        return self._num_out

    def close(self) -> None:
        """Wake everyone who waits with `Closed` and let go of the items; idempotent."""
        with self._may_get:
            self._closed = True
            self._items.clear()
            self._may_put.notify_all()
            self._may_get.notify_all()

    def _has_room(self, sequence: int) -> bool:
        if self._in_order:
            return sequence < self._num_out + self._capacity
        return len(self._items) < self._capacity

    def _next(self) -> int | None:
        """The number of the item that may leave now, if there is one."""
        if self._in_order:
            return self._num_out if self._num_out in self._items else None
        return min(self._items, default=None)
