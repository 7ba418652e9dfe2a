"""Samples of like length next to each other, so that padded batches have little padding.

Stands over a shuffle.  Invariant: within each window of the sequence below, positions are only
exchanged: every sample keeps its window, and comes once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from iopipe.errors import PipelineError
from iopipe.order.permutation import permute, scatter
from iopipe.order.shuffles import EpochSequence
from iopipe.protocols import Int64Array

_RECENT_WINDOWS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucketed:
    """Each window of `window` positions is sorted by length and cut into runs of `samples`,
    which come in a random order.

    Take a step of all ranks for `samples`: its samples are then of like length.  Time and
    memory grow with the window, not with the epoch.
    """

    inner: EpochSequence
    lengths: Callable[[Int64Array], Int64Array]
    """int64 [n] lengths of samples by id, without reading them."""
    samples: int
    window: int
    _recent: dict[tuple[int, int], Int64Array] = field(
        default_factory=dict, compare=False, repr=False
    )
    _lock: threading.Lock = field(default_factory=threading.Lock, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.samples < 1 or self.window < self.samples:
            raise PipelineError(
                f"samples is {self.samples} and window {self.window}: give 1 or more, and a window "
                "that holds at least one run of them"
            )

    @property
    def seed(self) -> int:
        return self.inner.seed

    def num_positions(self, epoch: int) -> int:
        return self.inner.num_positions(epoch)

    def ids(self, epoch: int, positions: Int64Array) -> Int64Array:
        windows, places = np.divmod(positions, self.window)
        ids = np.empty_like(positions)
        for window in np.unique(windows):
            here = windows == window
            ids[here] = self._window(epoch, int(window))[places[here]]
        return ids

    def identity(self) -> dict[str, Any]:
        bucket = {"samples": self.samples, "window": self.window}
        return {**self.inner.identity(), "bucket": bucket}

    def details(self, epoch: int, position: int) -> dict[str, Any]:
        return self.inner.details(epoch, position)

    def describe(self) -> str:
        return (
            f"{self.inner.describe()}, runs of {self.samples} samples of like length within "
            f"windows of {self.window}"
        )

    def _window(self, epoch: int, window: int) -> Int64Array:
        """The samples of a window in their order."""
        with self._lock:
            found = self._recent.get((epoch, window))
        if found is not None:
            return found
        first = window * self.window
        last = min(first + self.window, self.num_positions(epoch))
        ids = self.inner.ids(epoch, np.arange(first, last, dtype=np.int64))
        by_length = ids[np.argsort(self.lengths(ids), kind="stable")]
        num_whole = len(ids) // self.samples
        made = by_length
        if num_whole:
            key = self.seed, epoch
            words = np.repeat(scatter(np.array([window]), key), num_whole)
            runs = permute(np.arange(num_whole), num_whole, key, tweak=words)
            whole = by_length[: num_whole * self.samples].reshape(num_whole, self.samples)[runs]
            made = np.concatenate([whole.ravel(), by_length[num_whole * self.samples :]])
        with self._lock:
            self._recent[epoch, window] = made
            while len(self._recent) > _RECENT_WINDOWS:
                del self._recent[next(iter(self._recent))]
        return made
