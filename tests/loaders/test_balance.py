"""The balancer on simulated lanes: converges, never oscillates, and is deterministic."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iopipe.loaders.decode.balance import Balancer, parted

Cost = Callable[[float], float]
"""Work -> seconds."""


def _steps(balancer: Balancer, costs: Sequence[Cost], number: int) -> list[tuple[float, ...]]:
    """The shares after each of `number` batches of work 1."""
    history = []
    for _ in range(number):
        shares = balancer.shares
        balancer.measured(shares, [cost(share) for cost, share in zip(costs, shares, strict=True)])
        history.append(balancer.shares)
    return history


def _slowest(shares: Sequence[float], costs: Sequence[Cost]) -> float:
    return max(cost(share) for cost, share in zip(costs, shares, strict=True))


@given(st.lists(st.floats(0.5, 20), min_size=2, max_size=3))
def test_constant_rates_end_within_the_dead_band_of_the_best(rates: list[float]) -> None:
    costs = [lambda work, rate=rate: work / rate for rate in rates]
    history = _steps(Balancer([1] * len(rates)), costs, 40)
    best = 1 / sum(rates)
    assert _slowest(history[-1], costs) <= 1.06 * best
    assert history[-1] == history[-2]


@given(st.lists(st.floats(0.5, 20), min_size=2, max_size=3))
def test_every_step_is_towards_the_goal_and_none_beyond_it(rates: list[float]) -> None:
    goal = [rate / sum(rates) for rate in rates]
    costs = [lambda work, rate=rate: work / rate for rate in rates]
    start = tuple(1 / len(rates) for _ in rates)
    for lane, share in enumerate(goal):
        seen = [start[lane], *(shares[lane] for shares in _steps(Balancer(start), costs, 30))]
        distances = [share - one for one in seen]
        assert all(abs(b) <= abs(a) + 1e-3 for a, b in itertools.pairwise(distances))
        assert all(a * b >= -1e-6 for a, b in itertools.pairwise(distances))


def test_a_fixed_cost_of_each_batch_is_balanced_away() -> None:
    costs = [lambda work: work / 7, lambda work: 0.02 + work / 18, lambda work: work / 1]
    history = _steps(Balancer([0.25, 0.65, 0.1]), costs, 60)
    times = [cost(share) for cost, share in zip(costs, history[-1], strict=True)]
    assert max(times) <= 1.06 * min(times)


def test_noise_moves_the_shares_less_than_it_is_itself() -> None:
    generator = random.Random(1)
    costs = [
        lambda work: work / 7 * generator.uniform(0.9, 1.1),
        lambda work: work / 18 * generator.uniform(0.9, 1.1),
    ]
    history = _steps(Balancer([0.5, 0.5]), costs, 300)[50:]
    shares = [share for share, _ in history]
    assert max(shares) - min(shares) < 0.03
    assert abs(sum(shares) / len(shares) - 7 / 25) < 0.02


def test_a_lane_that_slows_down_gives_away_and_gets_back() -> None:
    rate = [10.0]
    costs: list[Cost] = [lambda work: work / rate[0], lambda work: work / 10]
    balancer = Balancer([0.5, 0.5])
    assert _steps(balancer, costs, 10)[-1] == (0.5, 0.5)
    rate[0] = 2.0
    assert _steps(balancer, costs, 40)[-1][0] == pytest.approx(1 / 6, abs=0.02)
    rate[0] = 10.0
    assert _steps(balancer, costs, 40)[-1][0] == pytest.approx(0.5, abs=0.03)


def test_a_lane_that_does_nearly_nothing_keeps_being_asked() -> None:
    costs = [lambda work: work / 1e-6, lambda work: work / 10]
    history = _steps(Balancer([0.5, 0.5]), costs, 60)
    assert history[-1][0] == pytest.approx(1 / 256, abs=1e-4)
    assert sum(history[-1]) == pytest.approx(1)


def test_nothing_moves_before_every_lane_was_measured() -> None:
    balancer = Balancer([0.5, 0.5])
    balancer.measured([1, 0], [1, 0])
    assert balancer.shares == (0.5, 0.5)


@given(
    st.lists(st.integers(1, 1000), max_size=60),
    st.lists(st.floats(0.05, 1), min_size=1, max_size=4),
)
def test_parts_are_the_rows_in_order_in_proportion(work: list[int], parts: list[float]) -> None:
    shares = [part / sum(parts) for part in parts]
    order = list(range(len(work)))
    found = parted(order, work, shares)
    assert [row for rows in found for row in rows] == order
    assert len(found) == len(shares)
    for rows, share in zip(found, shares, strict=True):
        done = sum(work[row] for row in rows)
        assert abs(done - share * sum(work)) <= max(work, default=0)
