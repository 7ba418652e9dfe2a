"""Windows of cached batches: nothing lost, and a slowdown that nobody waits for is found."""

from __future__ import annotations

import random

import pytest

from iopipe.meter.interference import CachedWindows, interference


def test_the_loaders_batches_come_in_order_and_none_is_lost() -> None:
    kinds: list[str] = []
    seen = list(CachedWindows(every=6, length=4).over(range(15), kinds.append))
    assert seen == [*range(6), 5, 5, 5, 5, *range(6, 12), 11, 11, 11, 11, 12, 13, 14]
    window = ["settling"] * 4 + ["fed"] * 2 + ["settling"] * 2 + ["cached"] * 2
    assert kinds == [*window, *window, "settling", "settling", "settling"]


@pytest.mark.parametrize("slowdown", [0.0, 0.08])
def test_the_slowdown_is_in_the_interval(slowdown: float) -> None:
    draws = random.Random(3)
    kinds: list[str] = []
    busy = []
    for number, _ in enumerate(CachedWindows(every=100, length=20).over(range(2000), kinds.append)):
        drift = 1 + number / 10_000  # clocks fall while the device warms up
        slow = 1 if kinds[-1] == "cached" else 1 + slowdown
        busy.append(round(10_000_000 * drift * slow * draws.gauss(1, 0.01)))
    found = interference(kinds, busy)
    assert found is not None
    assert found.num_pairs == 20
    assert found.low <= slowdown <= found.high
    assert found.high - found.low < 0.02
    assert (found.low > 0) == (slowdown > 0)


def test_one_window_says_nothing() -> None:
    assert interference(["fed", "cached", "fed"], [10, 9, 10]) is None
    with pytest.raises(ValueError, match="length is 3"):
        CachedWindows(length=3)
