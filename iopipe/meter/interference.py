"""What the input costs without ever stopping the step: windows of cached batches, compared.

Stands in front of a loader, where a user asks for it.  Invariant: between two windows the
loader's batches come unchanged and in order; in a window the batch before it comes again, and
none of the loader's is lost.

Decode on the GPU, copies and worker processes take memory bandwidth and cores from the step.
Its stream is never idle for it, so neither attribution nor replay can see it; only steps with
the input at rest can (the "headspace" of SPDL).  The repeated batches are steps of the
training: use it in a trial run.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar

from iopipe.meter.report import Interference

T = TypeVar("T")

_T_95 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23)
"""Student's t, two-sided 95 %, for 1 to 10 degrees of freedom; above, 2.0 to 2.2."""


class CachedWindows:
    """Repeats a batch for `length` steps after every `every` batches.

    The prefetch queue fills up within the first steps of a window, and runs low within the
    first ones after it: half a window each is left out.

        fed          left out | cached  left out | fed      steps 90-100, 100-110, 110-120, ...
    """

    def __init__(self, *, every: int = 2000, length: int = 20) -> None:
        """`ValueError` where a window has less than 4 steps, or more than half of `every`."""
        if not 4 <= length <= every // 2:
            raise ValueError(
                f"length is {length} and every {every}: give at least 4, and twice as many"
            )
        self._every = every
        self._length = length

    def over(self, batches: Iterable[T], on_step: Callable[[str], None]) -> Iterator[T]:
        """The batches, with windows; `on_step` hears 'before', 'cached', 'after' or 'left out'
        before each is handed over."""
        for number, batch in enumerate(batches):
            on_step(self._kind(number))
            yield batch
            if number % self._every == self._every - 1:
                for repeat in range(self._length):
                    on_step("cached" if repeat >= self._length // 2 else "left out")
                    yield batch

    def _kind(self, number: int) -> str:
        place = number % self._every
        if place >= self._every - self._length // 2:
            return "before"
        if number >= self._every and self._length // 2 <= place < self._length // 2 * 2:
            return "after"
        return "left out"


class WindowMeter:
    """Sorts the lengths of steps by the kind of their batch; a `History` of the meter.

    Each cached window is compared with the fed steps before and after it, which are as far
    away from it: a slow drift of clocks and temperature cancels.
    """

    def __init__(self) -> None:
        self._kinds: deque[str] = deque()
        self._busy_ns: dict[str, list[int]] = {}
        self._shares: list[float] = []

    def on_step(self, kind: str) -> None:
        """A batch of this kind is about to be handed over."""
        self._kinds.append(kind)

    def add(self, started_ns: int, ended_ns: int, causes: Mapping[str, int]) -> None:
        """The step of the oldest batch is over; what it stood idle for does not count."""
        busy_ns = ended_ns - started_ns - sum(causes.values())
        kind = self._kinds.popleft()
        if kind != "after" and "after" in self._busy_ns:
            self._compare()
        if kind != "left out" and busy_ns > 0:  # the last of an iteration has no length
            self._busy_ns.setdefault(kind, []).append(busy_ns)

    def report(self) -> Interference | None:
        """None for less than two windows."""
        shares = self._shares
        if len(shares) < 2:
            return None
        mean = statistics.fmean(shares)
        error = statistics.stdev(shares) / len(shares) ** 0.5
        degrees = len(shares) - 1
        half = error * (_T_95[degrees - 1] if degrees <= len(_T_95) else 2.2)
        return Interference(fraction=mean, low=mean - half, high=mean + half, num_pairs=len(shares))

    def _compare(self) -> None:
        means = {kind: statistics.fmean(lengths) for kind, lengths in self._busy_ns.items()}
        if len(means) == 3:
            fed = (means["before"] + means["after"]) / 2
            self._shares.append(fed / means["cached"] - 1)
        self._busy_ns.clear()
