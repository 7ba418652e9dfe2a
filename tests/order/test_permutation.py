"""The permutation is one, and looks like any other."""

from __future__ import annotations

import hashlib
import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iopipe.order import permute, unpermute
from iopipe.order.permutation import scatter


def full(num_items: int, seed: int = 0, epoch: int = 0) -> list[int]:
    return permute(np.arange(num_items), num_items, (seed, epoch)).tolist()


def chi_square(counts: np.ndarray, num_draws: int) -> float:
    """In standard deviations from what a uniform choice among the cells gives."""
    expected = num_draws / counts.size
    freedom = counts.size - 1
    return (((counts - expected) ** 2 / expected).sum() - freedom) / math.sqrt(2 * freedom)


# ---- permute -------------------------------------------------------------------------


def test_bijection_of_every_small_size() -> None:
    for num_items in range(1, 301):
        assert sorted(full(num_items, seed=num_items, epoch=1)) == list(range(num_items))


@pytest.mark.parametrize("num_items", [65_535, 65_536, 65_537, 99_991, 300_000])
def test_bijection_of_large_sizes(num_items: int) -> None:
    seen = np.zeros(num_items, dtype=bool)
    for first in range(0, num_items, 4096):
        block = np.arange(first, min(first + 4096, num_items))
        seen[permute(block, num_items, (3, 4))] = True
    assert seen.all()


@pytest.mark.parametrize("num_items", [2**31 + 11, 2**40, 2**40 + 1, 2**62])
def test_huge_sizes_stay_in_range_and_do_not_collide(num_items: int) -> None:
    edge = np.arange(2000)
    indices = np.concatenate([edge, num_items - 1 - edge])
    values = permute(indices, num_items, (5, 6))
    assert values.dtype == np.int64
    assert values.min() >= 0 and values.max() < num_items
    assert len(np.unique(values)) == len(indices)
    sixteenths, _ = np.histogram(values / num_items, 16, (0, 1))
    assert chi_square(sixteenths, len(indices)) < 5


def naive_permute(index: int, num_items: int, key: tuple[int, int]) -> int:
    """The docstring's method, one index at a time, in Python's own integers."""
    text = b"".join((word % 2**64).to_bytes(8, "little") for word in key)
    digest = hashlib.shake_128(b"iopipe.order" + text).digest(192)
    keys = [int.from_bytes(digest[at : at + 8], "little") for at in range(0, 192, 8)]
    num_rows = max(math.isqrt(num_items), 2)
    num_columns = math.ceil(num_items / num_rows)

    def mixed(value: int, key: int) -> int:
        value = (value ^ key) * 0xBF58476D1CE4E5B9 % 2**64
        value = (value ^ (value >> 32)) * 0x94D049BB133111EB % 2**64
        return value >> 24

    while True:
        row, column = divmod(index, num_columns)
        for even, odd in zip(keys[::2], keys[1::2], strict=True):
            row = (row + mixed(column, even)) % num_rows
            column = (column + mixed(row, odd)) % num_columns
        index = row * num_columns + column
        if index < num_items:
            return index


@given(
    num_items=st.integers(1, 2**48),
    key=st.tuples(st.integers(-(2**63), 2**64), st.integers(0, 2**64)),
    share=st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=5),
)
def test_agrees_with_the_naive_twin(
    num_items: int, key: tuple[int, int], share: list[float]
) -> None:
    indices = [int(part * num_items) for part in share]
    values = permute(np.array(indices, dtype=np.int64), num_items, key)
    assert values.tolist() == [naive_permute(index, num_items, key) for index in indices]


def test_values_are_frozen() -> None:
    """Saved positions depend on these: a change breaks every resumed run."""
    assert full(10, seed=1, epoch=2) == [8, 0, 3, 9, 1, 7, 4, 2, 6, 5]
    assert permute(np.array([0, 1, 2**40 - 1]), 2**40, (7, 0)).tolist() == [
        682972301126,
        451988789026,
        731787830036,
    ]


@pytest.mark.parametrize("num_items", [2, 3, 4, 5, 6])
def test_every_permutation_is_equally_likely(num_items: int) -> None:
    """Over keys that differ in the epoch only, as those of a run do."""
    rank = {order: place for place, order in enumerate(itertools.permutations(range(num_items)))}
    num_keys = max(12 * len(rank), 600)
    counts = np.zeros(len(rank))
    for epoch in range(num_keys):
        counts[rank[tuple(full(num_items, seed=42, epoch=epoch))]] += 1
    assert abs(chi_square(counts, num_keys)) < 4.5


@pytest.mark.parametrize("num_items", [7, 16, 31, 100])
def test_every_item_is_equally_likely_at_every_place(num_items: int) -> None:
    num_keys = 20 * num_items
    counts = np.zeros((num_items, num_items))
    places = np.arange(num_items)
    for seed in range(num_keys):
        counts[places, full(num_items, seed=seed)] += 1
    # Rows and columns add up to num_keys: (n - 1)**2 degrees of freedom, not n * n - 1.
    expected = num_keys / num_items
    freedom = (num_items - 1) ** 2
    excess = ((counts - expected) ** 2 / expected).sum() * (num_items - 1) / num_items - freedom
    assert abs(excess) / math.sqrt(2 * freedom) < 4.5


@pytest.mark.parametrize("num_items", [50, 1000, 65_536, 100_003])
def test_neighbours_end_up_as_far_apart_as_by_chance(num_items: int) -> None:
    order = np.array(full(num_items, seed=9))
    for lag in (1, 2, 256):
        distance = np.abs(order - np.roll(order, lag)).mean() / num_items
        # Two independent places are a third apart; one distance deviates by 0.24.
        assert abs(distance - 1 / 3) < 5 * 0.24 / math.sqrt(num_items)


def test_epochs_and_seeds_are_unrelated_orders() -> None:
    num_items = 10_000
    orders = [full(num_items, seed, epoch) for seed in (0, 1, 2**32) for epoch in (0, 1, 2**32)]
    for one, other in itertools.combinations(orders, 2):
        # Fixed points of a random permutation: one on average, more than 12 once in 1e9.
        assert np.count_nonzero(np.array(one) == np.array(other)) <= 12


def test_parts_agree_with_the_whole() -> None:
    whole = full(1000, seed=1)
    parts = [permute(np.arange(at, at + 50), 1000, (1, 0)).tolist() for at in range(0, 1000, 50)]
    assert list(itertools.chain(*parts)) == whole
    assert permute(np.array([], dtype=np.int64), 1000, (1, 0)).tolist() == []


@given(
    num_items=st.integers(1, 1 << 62) | st.integers(1, 300),
    key=st.tuples(st.integers(0, 1 << 64), st.integers(0, 1 << 64)),
    picks=st.lists(st.integers(0, 1 << 62), min_size=1, max_size=50),
)
def test_a_permutation_can_be_undone(
    num_items: int, key: tuple[int, int], picks: list[int]
) -> None:
    indices = np.array([pick % num_items for pick in picks], np.int64)
    assert unpermute(permute(indices, num_items, key), num_items, key).tolist() == indices.tolist()


def test_each_tweak_is_a_permutation_of_its_own() -> None:
    """As likely to send an item anywhere as if each had a key of its own."""
    num_items, num_tweaks = 31, 600
    words = scatter(np.arange(num_tweaks), (4, 2))
    assert len(np.unique(words)) == num_tweaks
    indices = np.tile(np.arange(num_items), num_tweaks)
    places = permute(indices, num_items, (4, 2), tweak=np.repeat(words, num_items))
    table = places.reshape(num_tweaks, num_items)
    assert (np.sort(table, axis=1) == np.arange(num_items)).all()
    counts = np.zeros((num_items, num_items))
    np.add.at(counts, (indices, places), 1)
    expected = num_tweaks / num_items
    freedom = (num_items - 1) ** 2
    excess = ((counts - expected) ** 2 / expected).sum() * (num_items - 1) / num_items - freedom
    assert abs(excess) / math.sqrt(2 * freedom) < 4.5
    same = (table[:, None] == table[None, :]).sum(axis=2)[np.triu_indices(num_tweaks, 1)]
    assert abs(same.mean() - 1) < 0.02  # two random permutations agree in one place on average
