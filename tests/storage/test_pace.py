"""The pace against servers of a known limit, on a clock that tests move."""

from __future__ import annotations

import heapq
from collections.abc import Callable

import pytest

from iopipe.storage.pace import Pace


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def run(
    num_requests: int, *, accepts: Callable[[float], bool], seconds: float, places: int = 32
) -> tuple[Pace, float]:
    """Serve that many, one thread for all: what was refused is asked again.  (pace, end)"""
    clock = Clock()
    pace = Pace(max_places=places, clock=clock, sleep=clock.sleep)
    under_way: list[tuple[float, bool, float]] = []
    num_served = 0
    while num_served < num_requests:
        while len(under_way) < int(pace._places):
            start = pace.begin()
            heapq.heappush(under_way, (clock.now + seconds, accepts(clock.now), start))
        end, is_served, start = heapq.heappop(under_way)
        clock.now = max(clock.now, end)
        if is_served:
            num_served += 1
            pace.served()
        else:
            pace.refused(start)
    return pace, clock.now


def leaky(rate: float, burst: int) -> Callable[[float], bool]:
    level, at = 0.0, 0.0

    def accepts(now: float) -> bool:
        nonlocal level, at
        level, at = max(0.0, level - (now - at) * rate), now
        if level > burst:
            return False
        level += 1
        return True

    return accepts


@pytest.mark.parametrize("burst", [0, 5])
@pytest.mark.parametrize("rate", [20.0, 50.0, 400.0])
def test_a_limited_server_refuses_few(rate: float, burst: int) -> None:
    pace, seconds = run(int(rate * 20), accepts=leaky(rate, burst), seconds=0.01)
    assert pace.num_refused < max(40, rate * 20 / 100)
    assert seconds < 2 * 20


def test_an_unlimited_server_is_asked_as_much_as_there_are_places() -> None:
    pace, seconds = run(2000, accepts=lambda now: True, seconds=0.1)
    assert pace.rate is None and pace.num_refused == 0
    assert seconds < 2000 / 32 * 0.1 + 1  # the first round trips have fewer places


def test_requests_of_one_burst_cut_the_rate_once() -> None:
    clock = Clock()
    pace = Pace(max_places=8, clock=clock, sleep=clock.sleep)
    starts = [pace.begin() for _ in range(4)]
    for start in starts:
        pace.refused(start)
    assert pace.rate == 10.0 and pace.num_refused == 4


def test_failures_leave_the_rate_alone() -> None:
    pace = Pace(max_places=2)
    for _ in range(5):
        pace.begin()
        pace.failed()
    assert pace.rate is None and pace.num_refused == 0
