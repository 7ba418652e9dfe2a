"""Order: every sample once, whoever takes turns, wherever one starts again."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iopipe.errors import PipelineError
from iopipe.order import Order, permute


def _whole(num_items: int, seed: int = 0, epoch: int = 0) -> list[int]:
    return permute(np.arange(num_items), num_items, seed=seed, epoch=epoch).tolist()


def test_every_size_up_to_300_is_permuted() -> None:
    for num_items in range(1, 301):
        assert sorted(_whole(num_items, seed=num_items)) == list(range(num_items))


@pytest.mark.parametrize("num_items", [4096, 4097, 100_003])
def test_large_sizes_are_permuted(num_items: int) -> None:
    assert np.array_equal(np.sort(_whole(num_items)), np.arange(num_items))


def test_ids_do_not_depend_on_how_many_are_asked_for() -> None:
    whole = _whole(1000, seed=9)
    assert [_at(position, 1000) for position in range(0, 1000, 37)] == whole[::37]


def _at(position: int, num_items: int) -> int:
    return int(permute(np.array([position]), num_items, seed=9, epoch=0)[0])


def test_a_trillion_samples_need_no_memory() -> None:
    positions = np.random.default_rng(0).integers(0, 10**12, 10_000)
    ids = permute(positions, 10**12, seed=1, epoch=2)
    assert ids.min() >= 0
    assert ids.max() < 10**12
    assert len(np.unique(ids)) == len(np.unique(positions))


@pytest.mark.parametrize("num_items", [3, 4, 5])
def test_small_permutations_are_all_equally_likely(num_items: int) -> None:
    num_trials = 2_400
    counts = Counter(tuple(_whole(num_items, seed, 7)) for seed in range(num_trials))
    permutations = list(itertools.permutations(range(num_items)))
    expected = num_trials / len(permutations)
    chi_square = sum((counts[p] - expected) ** 2 / expected for p in permutations)
    degrees = len(permutations) - 1
    assert chi_square < degrees + 4.5 * (2 * degrees) ** 0.5


def test_neighbours_are_as_far_apart_as_chance_has_it() -> None:
    num_items = 100_000
    ids = np.array(_whole(num_items, seed=3))
    distances = np.abs(np.diff(ids))
    assert abs(distances.mean() / (num_items / 3) - 1) < 0.01  # E|x-y| of two uniforms
    assert abs(np.corrcoef(ids, np.arange(num_items))[0, 1]) < 4 / num_items**0.5
    assert (ids == np.arange(num_items)).sum() < 10  # Poisson(1) fixed points


def test_seeds_and_epochs_give_unrelated_orders() -> None:
    orders = [_whole(5000, seed, epoch) for seed, epoch in [(0, 0), (0, 1), (1, 0), (-1, 0)]]
    for first, second in itertools.combinations(orders, 2):
        assert sum(a == b for a, b in zip(first, second, strict=True)) < 10


def _epoch(order: Order, epoch: int = 0, start: int = 0) -> list[int]:
    return order.ids(epoch, start, 0, order.num_local(start)).tolist()


@settings(max_examples=150, deadline=None)
@given(
    num_samples=st.integers(0, 400),
    world=st.integers(1, 9),
    start=st.integers(0, 400),
    shuffle=st.sampled_from(["full", "none"]),
    tail=st.sampled_from(["drop", "wrap"]),
)
def test_ranks_share_what_is_left_of_an_epoch(
    num_samples: int, world: int, start: int, shuffle: str, tail: str
) -> None:
    orders = [
        Order(num_samples=num_samples, seed=5, shuffle=shuffle, rank=r, world=world, tail=tail)  # type: ignore[arg-type]
        for r in range(world)
    ]
    whole = _epoch(Order(num_samples=num_samples, seed=5, shuffle=shuffle))[start:]  # type: ignore[arg-type]
    parts = [_epoch(order, start=start) for order in orders]
    assert len({len(part) for part in parts}) == 1
    dealt = [sample for turn in zip(*parts, strict=True) for sample in turn]
    if tail == "drop":
        assert dealt == whole[: len(whole) // world * world]
    else:
        assert dealt[: len(whole)] == whole
        assert len(dealt) - len(whole) < world


@settings(max_examples=100, deadline=None)
@given(
    num_samples=st.integers(1, 500),
    history=st.lists(st.tuples(st.integers(1, 7), st.integers(0, 40)), max_size=5),
)
def test_any_history_of_restarts_sees_each_sample_once(
    num_samples: int, history: list[tuple[int, int]]
) -> None:
    start, seen = 0, []
    for world, num_wanted in [*history, (1, num_samples)]:
        orders = [Order(num_samples=num_samples, rank=r, world=world) for r in range(world)]
        count = min(num_wanted, orders[0].num_local(start))
        for order in orders:
            seen += order.ids(3, start, 0, count).tolist()
        start = orders[0].position(start, count)
    assert sorted(seen) == list(range(num_samples))


@pytest.mark.parametrize(
    "options",
    [{"rank": 2, "world": 2}, {"rank": -1}, {"world": 0}, {"num_samples": -1}, {"tail": "x"}],
)
def test_what_cannot_be_is_refused(options: dict[str, int]) -> None:
    with pytest.raises(PipelineError):
        Order(**{"num_samples": 10, **options})  # type: ignore[arg-type]
