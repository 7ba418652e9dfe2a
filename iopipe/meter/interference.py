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
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")

_T_95 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23)
"""Student's t, two-sided 95 %, for 1 to 10 degrees of freedom; above, 2.0 to 2.2."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interference:
    """By how much steps are longer while the input works."""

    fraction: float
    """Of the step; 0.08: a step takes 8 % of its fed time longer than with the input at rest."""
    low: float
    """The 95 % interval, over pairs of neighbouring windows.  It holds 0: none detected."""
    high: float
    num_pairs: int


class CachedWindows:
    """Repeats a batch for `length` steps after every `every` batches.

    The prefetch queue fills up within the first steps of a window, so the first half of each
    counts as neither.
    """

    def __init__(self, *, every: int = 2000, length: int = 20) -> None:
        """`ValueError` where a window has less than 4 steps, or is not shorter than `every`."""
        if not 4 <= length <= every:
            raise ValueError(f"length is {length} and every {every}: give 4 <= length <= every")
        self._every = every
        self._length = length

    def over(self, batches: Iterable[T], on_step: Callable[[str], None]) -> Iterator[T]:
        """The batches, with windows; `on_step` hears 'fed', 'settling' or 'cached' before
        each is handed over."""
        for number, batch in enumerate(batches, 1):
            # The steps just before a window are the ones it is compared with.
            place = (number - 1) % self._every
            on_step("fed" if place >= self._every - self._length // 2 else "settling")
            yield batch
            if number % self._every == 0:
                for repeat in range(self._length):
                    on_step("cached" if repeat >= self._length // 2 else "settling")
                    yield batch


def interference(kinds: Sequence[str], busy_ns: Sequence[int]) -> Interference | None:
    """From the kind of each step and the time its kernels took; None for less than two pairs.

    Each cached window is paired with the fed steps just before it, so that a slow drift of
    clocks and temperature cancels.
    """
    pairs = list(_pairs(kinds, busy_ns))
    if len(pairs) < 2:
        return None
    shares = [fed / cached - 1 for fed, cached in pairs]
    mean = statistics.fmean(shares)
    error = statistics.stdev(shares) / len(shares) ** 0.5
    degrees = len(shares) - 1
    half = error * (_T_95[degrees - 1] if degrees <= len(_T_95) else 2.2)
    return Interference(fraction=mean, low=mean - half, high=mean + half, num_pairs=len(pairs))


def _pairs(kinds: Sequence[str], busy_ns: Sequence[int]) -> Iterator[tuple[float, float]]:
    fed: list[int] = []
    cached: list[int] = []
    for kind, busy in zip([*kinds, "end"], [*busy_ns, 0], strict=True):
        if cached and kind != "cached":
            if fed:
                yield statistics.fmean(fed), statistics.fmean(cached)
            fed, cached = [], []
        if kind == "fed":
            fed.append(busy)
        elif kind == "cached":
            cached.append(busy)
