"""What may be turned in the drop-in loader while it runs.

Stands between the tuner, in the thread that takes batches, and the iterator, which may live in
another one.  Invariant: batches stay what they are.  How many batches are fetched ahead shows in
none of them.  The number of workers does: torch tells it to the dataset, and a worker's draws are
its own; so it changes only for threads over a map-style dataset whose draws are keyed by sample.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from iopipe.autotune.setting import Knob, Values
from iopipe.autotune.tuner import Work

PREFETCH, WORKERS = "prefetch_factor", "workers"
_MOST_AHEAD = 64
_MOST_WORKERS = 64
_SPARE_BATCHES = 3
_NUM_WEIGHED = 8
"""Batches, of which the largest says what one takes."""


class FetchTimes:
    """How long threads fetched, and how much of that on a core; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._busy_ns = self._core_ns = 0

    def add(self, busy_ns: int, core_ns: int) -> None:
        with self._lock:
            self._busy_ns += busy_ns
            self._core_ns += core_ns

    def work(self) -> Work:
        with self._lock:
            return Work(self._busy_ns / 1e9, self._core_ns / 1e9)


class LoaderKnobs:
    """Of one loader, over all its iterations; an iterator takes up `wanted` at its next batch."""

    def __init__(self, *, prefetch_factor: int, num_workers: int, may_resize: bool) -> None:
        """`may_resize`: the number of workers may change."""
        self._values = {PREFETCH: prefetch_factor}
        self._num_workers = num_workers
        self.times = FetchTimes() if may_resize else None
        if may_resize:
            self._values[WORKERS] = num_workers
        self.wanted: tuple[int, int] = prefetch_factor, num_workers
        """(batches ahead of each worker, workers), replaced as a whole."""
        self._batch_bytes = 0
        self._num_weighed = 0

    def saw(self, batch: Any) -> None:
        """A batch that was handed over: how large they are."""
        if self._num_weighed < _NUM_WEIGHED:
            self._num_weighed += 1
            tensors = (leaf for leaf in tree_leaves(batch) if isinstance(leaf, torch.Tensor))
            self._batch_bytes = max(self._batch_bytes, sum(one.nbytes for one in tensors))

    def all(self) -> tuple[Knob, ...]:
        depth = Knob(name=PREFETCH, kind="depth", most=_MOST_AHEAD)
        workers = Knob(name=WORKERS, kind="threads", most=_MOST_WORKERS)
        return (depth, workers) if WORKERS in self._values else (depth,)

    def values(self) -> dict[str, int]:
        return dict(self._values)

    def turn(self, values: Values) -> None:
        self._values = dict(values)
        self.wanted = values[PREFETCH], values.get(WORKERS, self._num_workers)

    def needs(self, values: Values) -> Mapping[str, int]:
        workers = values.get(WORKERS, self._num_workers)
        return {"memory": self._batch_bytes * (values[PREFETCH] * workers + _SPARE_BATCHES)}

    def work(self) -> Mapping[str, Work]:
        return {} if self.times is None else {WORKERS: self.times.work()}

    def core_seconds(self) -> float:
        """Of this process; worker processes are as many as they are."""
        return time.process_time()

    def steps_in_flight(self) -> int:
        return min(self._values[PREFETCH] * self._values.get(WORKERS, self._num_workers), 8) + 2
