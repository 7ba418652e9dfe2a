"""Every step of a run in bounded memory: the last ones exactly, the older ones in buckets.

Stands behind the meter, which adds a step at a time, and in front of the pictures.
Invariant: no step is ever lost: counts and sums over all buckets are those of the run, and
the longest step of a bucket stays its maximum however often buckets are merged.

The newest `num_recent` steps lie in a ring.  Steps that leave it become buckets of `size`
steps; when `num_buckets` are full, neighbours are merged, and `size` doubles.  So the whole
run is seen at one resolution, which a picture of it needs, and its end step by step.

    num_recent 2, num_buckets 2, steps of 1, 9, 1, 1, 2, 3 ns
    -> [2 steps, sum 10, max 9] [2 steps, sum 2, max 1] [2] [3]
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Mapping, Sequence

import numpy as np

from iopipe.errors import PipelineError
from iopipe.meter.distribution import Distribution
from iopipe.meter.figures import IDLE_CAUSES, NOT_INPUT
from iopipe.meter.timeline import QUANTILES, Timeline
from iopipe.protocols import Int64Array

CAUSES = (*(name for name in IDLE_CAUSES if name not in NOT_INPUT), "loader", *NOT_INPUT)
"""What a stream can have stood idle for; a history has a column for each."""

_STARTED, _ENDED = 0, 1
_NUM_TIMES = 2
_ROWS_MOVED = 256
"""So many steps leave the ring together: numpy's calls are paid once for them, and a step
that moves them takes some 100 us longer."""


class History:
    """What happened in each step; about 1 MB at its defaults, over any number of steps.

    One thread adds; any may read.
    """

    def __init__(
        self,
        *,
        causes: Sequence[str] = CAUSES,
        num_recent: int = 4096,
        num_buckets: int = 2048,
    ) -> None:
        """`num_buckets` is even, from 2 on; at most so many cover what is not recent."""
        if num_recent < 1 or num_buckets < 2 or num_buckets % 2:
            raise PipelineError(
                f"num_recent is {num_recent} and num_buckets {num_buckets}: give at least 1, "
                "and an even number from 2 on"
            )
        self.causes = tuple(causes)
        self._known = frozenset(causes)
        self._zeros = (0,) * len(self.causes)
        self._num_recent = num_recent
        self._pack = struct.Struct(f"{_NUM_TIMES + len(self.causes)}q")
        # One row a step: started, ended, causes.  The oldest rows wait here to be moved.
        self._ring = bytearray(self._pack.size * (num_recent + _ROWS_MOVED))
        self._num_rows = 0
        self._buckets = _Buckets(num_buckets, 1 + len(self.causes))
        self._steps = Distribution()
        self._stalls = Distribution()
        self._stalling = [name not in NOT_INPUT for name in self.causes]
        self._lock = threading.Lock()

    @property
    def num_steps(self) -> int:
        """Steps added."""
        with self._lock:
            return self._num_rows + self._buckets.num_steps

    def add(self, started_ns: int, ended_ns: int, causes: Mapping[str, int]) -> None:
        """One step, from when to when on one clock, and how long it stood idle for what.

        Times in ns, none before the end of the step added last.  `PipelineError` for a cause
        that the history has no column for.
        """
        if not causes.keys() <= self._known:
            unknown = sorted(causes.keys() - self._known)
            raise PipelineError(f"unknown causes {unknown}: known are {sorted(self._known)}")
        idle = map(causes.get, self.causes, self._zeros)
        with self._lock:
            offset = self._num_rows * self._pack.size
            self._pack.pack_into(self._ring, offset, started_ns, ended_ns, *idle)
            self._num_rows += 1
            if self._num_rows == self._num_recent + _ROWS_MOVED:
                self._move()

    def timeline(self) -> Timeline:
        """A copy of all that is known, oldest first; recent steps are buckets of one."""
        with self._lock:
            rows = self._rows().copy()
            buckets = self._buckets.filled()
            steps, stalls = self._steps.copy(), self._stalls.copy()
        self._distribute(rows, steps, stalls)
        values = _values(rows)
        return Timeline(
            causes=self.causes,
            counts=np.concatenate([buckets.counts, np.ones(len(rows), np.int64)]),
            started_ns=np.concatenate([buckets.started, rows[:, _STARTED]]),
            ended_ns=np.concatenate([buckets.ended, rows[:, _ENDED]]),
            sums=np.concatenate([buckets.sums, values]),
            lowest=np.concatenate([buckets.lowest, values]),
            highest=np.concatenate([buckets.highest, values]),
            step_ms=tuple((steps.quantiles(QUANTILES) / 1e6).tolist()),
            stall_ms=tuple((stalls.quantiles(QUANTILES) / 1e6).tolist()),
        )

    def _rows(self) -> Int64Array:
        rows = np.frombuffer(self._ring, np.int64).reshape(-1, _NUM_TIMES + len(self.causes))
        return rows[: self._num_rows]

    def _move(self) -> None:
        """The oldest steps become parts of buckets."""
        rows = self._rows()
        moved = rows[:_ROWS_MOVED]
        self._distribute(moved, self._steps, self._stalls)
        self._buckets.add(moved[:, _STARTED], moved[:, _ENDED], _values(moved))
        rows[:-_ROWS_MOVED] = rows[_ROWS_MOVED:].copy()
        self._num_rows -= _ROWS_MOVED

    def _distribute(self, rows: Int64Array, steps: Distribution, stalls: Distribution) -> None:
        steps.add(rows[:, _ENDED] - rows[:, _STARTED])
        stalls.add(rows[:, _NUM_TIMES:][:, self._stalling].sum(axis=1))


def _values(rows: Int64Array) -> Int64Array:
    """[n, 1 + causes]: the duration, then the idle times."""
    duration = rows[:, _ENDED] - rows[:, _STARTED]
    return np.concatenate([duration[:, None], rows[:, _NUM_TIMES:]], axis=1)


class _Buckets:
    """Steps merged `size` at a time; the last bucket may still be filling."""

    def __init__(self, capacity: int, num_values: int) -> None:
        self._num = 0
        self._size = 1
        self.counts = np.zeros(capacity, np.int64)
        self.started = np.zeros(capacity, np.int64)
        self.ended = np.zeros(capacity, np.int64)
        self.sums = np.zeros((capacity, num_values), np.int64)
        self.lowest = np.zeros((capacity, num_values), np.int64)
        self.highest = np.zeros((capacity, num_values), np.int64)

    @property
    def num_steps(self) -> int:
        return int(self.counts[: self._num].sum())

    def filled(self) -> _Buckets:
        """A copy of the buckets that hold steps."""
        twin = _Buckets(0, self.sums.shape[1])
        for name in ("counts", "started", "ended", "sums", "lowest", "highest"):
            setattr(twin, name, getattr(self, name)[: self._num].copy())
        return twin

    def add(self, started: Int64Array, ended: Int64Array, values: Int64Array) -> None:
        """[n], [n] and [n, values]: steps that follow those added before."""
        first = 0
        while first < len(started):
            if not self._num or self.counts[self._num - 1] == self._size:
                self._open(started[first])
            last = self._num - 1
            room = self._size - int(self.counts[last])
            part = slice(first, first + room)
            self.ended[last] = ended[part][-1]
            self.sums[last] += values[part].sum(axis=0)
            np.minimum(self.lowest[last], values[part].min(axis=0), out=self.lowest[last])
            np.maximum(self.highest[last], values[part].max(axis=0), out=self.highest[last])
            self.counts[last] += len(started[part])
            first += room

    def _open(self, started_ns: int) -> None:
        if self._num == len(self.counts):
            self._halve()
        last = self._num
        limits = np.iinfo(np.int64)
        self.counts[last] = self.sums[last] = 0
        self.lowest[last], self.highest[last] = limits.max, limits.min
        self.started[last] = started_ns
        self._num += 1

    def _halve(self) -> None:
        half = self._num // 2
        self.started[:half] = self.started[0::2]
        self.ended[:half] = self.ended[1::2]
        self.counts[:half] = self.counts[0::2] + self.counts[1::2]
        self.sums[:half] = self.sums[0::2] + self.sums[1::2]
        self.lowest[:half] = np.minimum(self.lowest[0::2], self.lowest[1::2])
        self.highest[:half] = np.maximum(self.highest[0::2], self.highest[1::2])
        self._num, self._size = half, 2 * self._size
