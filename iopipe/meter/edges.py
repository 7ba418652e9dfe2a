"""What an edge knows of itself: who waited, and how full it was.

Stands inside the edges.  Invariant: updated under the edge's own lock, by the edge alone;
stages do not know that they are measured.
"""

from __future__ import annotations

from iopipe.meter.report import EdgeReport


class EdgeStats:
    """Running totals of one edge."""

    def __init__(self, name: str, capacity: int) -> None:
        self._name = name
        self._capacity = capacity
        self._num_items = 0
        self._put_wait_ns = 0
        self._get_wait_ns = 0
        self._size = 0
        self._first_ns: int | None = None
        self._last_ns = 0
        self._item_ns = 0

    def on_put(self, waited_ns: int, size: int, now_ns: int) -> None:
        """An item came in after its producer `waited_ns`; `size` items wait now."""
        self._num_items += 1
        self._put_wait_ns += waited_ns
        self._moved(size, now_ns)

    def on_get(self, waited_ns: int, size: int, now_ns: int) -> None:
        """An item went out after its consumer `waited_ns`; `size` items wait now."""
        self._get_wait_ns += waited_ns
        self._moved(size, now_ns)

    def resize(self, capacity: int) -> None:
        self._capacity = capacity

    def snapshot(self) -> EdgeReport:
        """A copy; the fields may be one item apart from each other while threads run."""
        elapsed_ns = 0 if self._first_ns is None else self._last_ns - self._first_ns
        return EdgeReport(
            name=self._name,
            capacity=self._capacity,
            num_items=self._num_items,
            put_wait_seconds=self._put_wait_ns / 1e9,
            get_wait_seconds=self._get_wait_ns / 1e9,
            mean_occupancy=self._item_ns / elapsed_ns if elapsed_ns else 0.0,
        )

    def _moved(self, size: int, now_ns: int) -> None:
        if self._first_ns is None:
            self._first_ns = now_ns
        else:
            self._item_ns += self._size * (now_ns - self._last_ns)
        self._last_ns = now_ns
        self._size = size
