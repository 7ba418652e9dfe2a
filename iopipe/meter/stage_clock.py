"""How long the threads of a stage work.

Stands around the functions of the stages, in their threads.  Invariant: work is counted when an
item is done; the time that the threads had is that of as many as there were at each moment.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from iopipe.meter.report import StageReport
from iopipe.meter.spans import Span
from iopipe.protocols import Cause


class StageClock:
    """How long the threads of one stage worked; thread-safe."""

    def __init__(
        self, name: str, cause: Cause, concurrency: int, *, is_watched: bool = False
    ) -> None:
        """`is_watched`: also how much of that they spent on a core, which costs a system call
        or two an item."""
        self._name = name
        self._cause = cause
        self._concurrency = concurrency
        self._is_watched = is_watched
        self._lock = threading.Lock()
        self._num_items = 0
        self._busy_ns = 0
        self._core_ns = 0
        self._earlier_seconds = 0.0
        """Of all threads together, before their number changed for the last time ..."""
        self._changed_seconds = 0.0
        """... and when that was."""

    def time(self, work: Callable[[], Any], spans: list[Span]) -> Any:
        start_ns = time.perf_counter_ns()
        core_ns = time.thread_time_ns() if self._is_watched else 0
        result = work()
        if self._is_watched:
            core_ns = time.thread_time_ns() - core_ns
        end_ns = time.perf_counter_ns()
        spans.append(Span(self._name, self._cause, start_ns, end_ns))
        with self._lock:
            self._num_items += 1
            self._busy_ns += end_ns - start_ns
            self._core_ns += core_ns
        return result

    def resize(self, concurrency: int, wall_seconds: float) -> None:
        """From now on there are so many threads."""
        with self._lock:
            self._earlier_seconds = self._capacity(wall_seconds)
            self._changed_seconds = wall_seconds
            self._concurrency = concurrency

    def times(self) -> tuple[float, float]:
        """Seconds that all threads worked, and those of them on a core where it is watched."""
        with self._lock:
            return self._busy_ns / 1e9, self._core_ns / 1e9

    def _capacity(self, wall_seconds: float) -> float:
        return self._earlier_seconds + self._concurrency * (wall_seconds - self._changed_seconds)

    def report(self, wall_seconds: float) -> StageReport:
        with self._lock:
            busy_seconds = self._busy_ns / 1e9
            num_items = self._num_items
            capacity = self._capacity(wall_seconds)
        return StageReport(
            name=self._name,
            cause=self._cause,
            concurrency=self._concurrency,
            num_items=num_items,
            busy_seconds=busy_seconds,
            busy_fraction=busy_seconds / capacity if capacity else 0.0,
        )
