"""Windows of cached batches: nothing lost, and a slowdown that nobody waits for is found."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

import iopipe
from iopipe.meter.interference import CachedWindows, WindowMeter


def test_the_loaders_batches_come_in_order_and_none_is_lost() -> None:
    kinds: list[str] = []
    seen = list(CachedWindows(every=8, length=4).over(range(19), kinds.append))
    assert seen == [*range(8), 7, 7, 7, 7, *range(8, 16), 15, 15, 15, 15, 16, 17, 18]
    window = ["before"] * 2 + ["left out"] * 2 + ["cached"] * 2
    first = ["left out"] * 6 + window
    second = ["left out"] * 2 + ["after"] * 2 + ["left out"] * 2 + window
    assert kinds == [*first, *second, "left out", "left out", "after"]


@pytest.mark.parametrize("slowdown", [0.0, 0.08])
def test_the_slowdown_is_in_the_interval(slowdown: float) -> None:
    draws = random.Random(3)
    kinds: list[str] = []
    meter = WindowMeter()
    for number, _ in enumerate(CachedWindows(every=100, length=20).over(range(2030), kinds.append)):
        drift = 1 + number / 10_000  # clocks fall while the device warms up
        slow = 1 if kinds[-1] == "cached" else 1 + slowdown
        busy = round(10_000_000 * drift * slow * draws.gauss(1, 0.01))
        meter.on_step(kinds[-1])
        waited = draws.randrange(10_000_000)
        meter.add(0, busy + waited, {"decode": waited})
    found = meter.report()
    assert found is not None
    assert found.num_pairs == 20
    assert found.low <= slowdown <= found.high
    assert found.high - found.low < 0.02
    assert (found.low > 0) == (slowdown > 0)


def test_one_window_says_nothing() -> None:
    meter = WindowMeter()
    for kind in ("before", "cached", "after", "left out"):
        meter.on_step(kind)
        meter.add(0, 10, {})
    assert meter.report() is None
    with pytest.raises(ValueError, match="length is 3"):
        CachedWindows(length=3)


def test_a_metered_loader_finds_a_loader_that_slows_the_step() -> None:
    """Workers that take cores: the step takes 12 ms beside them, 10 ms when they rest."""
    now, is_loading = 0, False

    def loader() -> Iterator[int]:
        nonlocal is_loading
        for number in range(210):
            is_loading = True
            yield number

    metered = iopipe.meter(loader(), windows=CachedWindows(every=40, length=8), clock=lambda: now)
    previous = None
    for batch in metered:
        is_loading = batch != previous
        previous = batch
        now += 12_000_000 if is_loading else 10_000_000
        metered.step()
    found = metered.report().interference
    assert found is not None
    assert found.num_pairs == 5
    assert found.fraction == pytest.approx(0.2)
    assert "input slows the step by 20.0 % while it runs" in metered.report().verdict
