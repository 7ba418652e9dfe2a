"""The one way to time on a GPU: cold L2, contestants in turns, the host kept out.

Stands under the tuner and the kernel benchmark.  Invariant: between the write that clears
the L2 and the end of a launch the stream never runs dry, so that what is measured is the
device's time and not the host's way to a launch.
"""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch

_FLUSH_BYTES = 256 << 20
_COPY_BYTES = 1 << 30
_MAX_FLUSHES = 200
_RIVAL_SIZE = 4096
_RIVAL_MICROSECONDS = 3000.0

Run = Callable[[], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """How a contestant and a matrix product get along when both always have work."""

    microseconds: float
    """One launch of the contestant, on average."""
    rival_slowdown: float
    """The product's time over its time alone: 1 is undisturbed."""


class Timer(Protocol):
    """What the tuner asks for; tests answer with times of their own."""

    def alone(self, runs: Mapping[str, Run], *, num_rounds: int) -> dict[str, list[float]]:
        """Microseconds of every launch."""

    def beside(self, runs: Mapping[str, Run], *, num_rounds: int) -> dict[str, Beside]:
        """Each beside a competing matrix product."""


class CudaTimer:
    """Times on the current stream of the current device; holds 256 MiB and three matrices."""

    def __init__(self) -> None:
        self._flushed = torch.empty(_FLUSH_BYTES, dtype=torch.uint8, device="cuda")
        self._flush_microseconds = self._spans(lambda: None, num_rounds=9, num_flushes=9)[1] / 9
        self._rival = _Rival()

    def copy_peak(self, *, num_rounds: int = 15) -> float:
        """Bytes read and written a second by `torch.Tensor.copy_` of 1 GiB."""
        source = torch.empty(_COPY_BYTES, dtype=torch.uint8, device="cuda")
        target = torch.empty_like(source)
        (times,) = self.alone(
            {"copy": lambda: target.copy_(source)}, num_rounds=num_rounds
        ).values()
        return 2e6 * _COPY_BYTES / statistics.median(times)

    def floor(self, *, num_rounds: int = 31) -> float:
        """Microseconds of a launch that does next to nothing."""
        word = torch.zeros(1, device="cuda")
        times = self.alone({"nothing": word.zero_}, num_rounds=num_rounds)
        return statistics.median(times["nothing"])

    def alone(self, runs: Mapping[str, Run], *, num_rounds: int) -> dict[str, list[float]]:
        """Microseconds of every launch, each after a write of 256 MiB; A B C, C B A, A B ..."""
        flushes = {name: self._flushes_for(run) for name, run in runs.items()}
        times: dict[str, list[float]] = {name: [] for name in runs}
        for number in range(num_rounds):
            for name in list(runs)[:: -1 if number % 2 else 1]:
                span, _ = self._spans(runs[name], num_rounds=1, num_flushes=flushes[name])
                times[name].append(span)
        return times

    def beside(self, runs: Mapping[str, Run], *, num_rounds: int) -> dict[str, Beside]:
        """Each beside a bf16 matrix product on another stream, both for about 3 ms."""
        alone = self.alone(runs, num_rounds=5)
        rows: dict[str, list[Beside]] = {name: [] for name in runs}
        for _ in range(num_rounds):
            for name, run in runs.items():
                busy = max(statistics.median(alone[name]), _host_microseconds(run))
                count = max(1, min(64, round(_RIVAL_MICROSECONDS / busy)))
                rows[name].append(self._rival.beside(run, count=count))
        return {
            name: Beside(
                microseconds=statistics.median(row.microseconds for row in found),
                rival_slowdown=statistics.median(row.rival_slowdown for row in found),
            )
            for name, found in rows.items()
        }

    def _flushes_for(self, run: Run) -> int:
        """So many writes that the host has launched `run` before they are done, even where it
        is three times as slow as just now; above the limit its waits are measured too."""
        needed = 3 * _host_microseconds(run) / self._flush_microseconds
        return min(_MAX_FLUSHES, 1 + math.ceil(needed))

    def _spans(self, run: Run, *, num_rounds: int, num_flushes: int) -> tuple[float, float]:
        """Median microseconds of `run`, and of the writes before it."""
        spans = []
        for number in range(num_rounds):
            marks = _marks(3)
            marks[0].record()
            for _ in range(num_flushes):
                self._flushed.fill_(number)
            marks[1].record()
            run()
            marks[2].record()
            marks[2].synchronize()
            flush, span = (1e3 * a.elapsed_time(b) for a, b in itertools.pairwise(marks))
            spans.append((span, flush))
        return statistics.median(s for s, _ in spans), statistics.median(f for _, f in spans)


class _Rival:
    """Matrix products on a stream of their own, about 3 ms of them."""

    def __init__(self) -> None:
        shape = (_RIVAL_SIZE, _RIVAL_SIZE)
        self._left = torch.randn(shape, device="cuda", dtype=torch.bfloat16)
        self._right = torch.randn(shape, device="cuda", dtype=torch.bfloat16)
        self._product = torch.empty_like(self._left)
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._num_products = 1
        one = [self._meet(lambda: None)[0] for _ in range(3)][-1]
        self._num_products = max(2, round(_RIVAL_MICROSECONDS / one))
        self._alone = statistics.median(self._meet(lambda: None)[0] for _ in range(9))

    def beside(self, run: Run, *, count: int) -> Beside:
        """`count` launches of `run` on the current stream meanwhile."""

        def launch() -> None:
            for _ in range(count):
                run()

        product, launches = self._meet(launch)
        return Beside(microseconds=launches / count, rival_slowdown=product / self._alone)

    def _meet(self, launch: Run) -> tuple[float, float]:
        """Microseconds of one product, and of all that `launch` enqueues."""
        marks = _marks(4)
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            marks[0].record()
            for _ in range(self._num_products):
                torch.mm(self._left, self._right, out=self._product)
            marks[1].record()
        marks[2].record()
        launch()
        marks[3].record()
        torch.cuda.synchronize()
        products = 1e3 * marks[0].elapsed_time(marks[1])
        return products / self._num_products, 1e3 * marks[2].elapsed_time(marks[3])


def _marks(count: int) -> list[torch.cuda.Event]:
    return [torch.cuda.Event(enable_timing=True) for _ in range(count)]  # type: ignore[no-untyped-call]


def _host_microseconds(run: Run) -> float:
    """The host's way to a launch, once everything is compiled."""
    for _ in range(2):
        run()
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(3):
        run()
    taken = time.perf_counter() - start
    torch.cuda.synchronize()
    return 1e6 * taken / 3
