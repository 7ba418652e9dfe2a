"""The permutation is one, looks like any other, and ranks share it without loss."""

from __future__ import annotations

import hashlib
import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iopipe.errors import PipelineError, StateError
from iopipe.order import Order, permute, unpermute

SIZES = st.integers(1, 200)
WORLDS = st.integers(1, 9)
TAILS = st.sampled_from(["drop", "wrap"])


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


# ---- Order ---------------------------------------------------------------------------


def ranks(world: int, **options: object) -> list[Order]:
    return [Order(rank=rank, world=world, **options) for rank in range(world)]  # type: ignore[arg-type]


def rest(order: Order, epoch: int, start: int) -> list[int]:
    return order.ids(epoch, start, 0, order.num_local(start)).tolist()


@given(num_samples=st.integers(0, 200), world=WORLDS, tail=TAILS, epoch=st.integers(0, 5))
def test_ranks_share_the_epoch(num_samples: int, world: int, tail: str, epoch: int) -> None:
    shares = [
        rest(order, epoch, 0) for order in ranks(world, num_samples=num_samples, seed=3, tail=tail)
    ]
    assert len({len(share) for share in shares}) == 1
    together = sorted(itertools.chain(*shares))
    if tail == "drop":
        assert len(together) == num_samples - num_samples % world
        assert len(set(together)) == len(together) and set(together) <= set(range(num_samples))
    else:
        assert len(together) == -(-num_samples // world) * world
        assert set(together) == set(range(num_samples))


@given(
    num_samples=SIZES,
    worlds=st.lists(WORLDS, min_size=1, max_size=4),
    steps=st.lists(st.tuples(st.integers(0, 4), st.integers(1, 5)), min_size=4, max_size=4),
    tail=TAILS,
    shuffle=st.sampled_from(["full", "none"]),
)
def test_another_world_continues_from_a_saved_position(
    num_samples: int, worlds: list[int], steps: list[tuple[int, int]], tail: str, shuffle: str
) -> None:
    """Each world takes some batches a rank, saves, and hands over; the last one finishes."""
    whole = rest(Order(num_samples=num_samples, seed=8, shuffle=shuffle), 2, 0)  # type: ignore[arg-type]
    position, taken = 0, []
    for world, (num_steps, batch) in zip(worlds, steps, strict=False):
        group = ranks(world, num_samples=num_samples, seed=8, shuffle=shuffle, tail=tail)
        consumed = min(num_steps * batch, group[0].num_local(position))
        blocks = [order.ids(2, position, 0, consumed) for order in group]
        taken += np.stack(blocks, axis=1).ravel().tolist()  # in the order of the steps
        position = group[0].position(position, consumed)
        assert taken[:position] == whole[:position]
        assert len(taken) == position or position == num_samples
    final = ranks(worlds[-1], num_samples=num_samples, seed=8, shuffle=shuffle, tail=tail)
    taken += itertools.chain(*[rest(order, 2, position) for order in final])
    if tail == "drop":
        assert len(set(taken)) == len(taken) > num_samples - worlds[-1]
    else:
        assert set(taken) == set(range(num_samples))


@given(num_samples=SIZES, world=WORLDS, tail=TAILS, data=st.data())
def test_ids_come_in_any_blocks(
    num_samples: int, world: int, tail: str, data: st.DataObject
) -> None:
    rank = data.draw(st.integers(0, world - 1))
    start = data.draw(st.integers(0, num_samples))
    order = Order(num_samples=num_samples, rank=rank, world=world, tail=tail)  # type: ignore[arg-type]
    whole = rest(order, 1, start)
    cut = data.draw(st.integers(0, len(whole)))
    blocks = [order.ids(1, start, 0, cut), order.ids(1, start, cut, len(whole))]
    assert np.concatenate(blocks).tolist() == whole


def test_worked_example() -> None:
    first, second = ranks(2, num_samples=7, shuffle="none")
    assert first.num_local() == second.num_local() == 3
    assert first.ids(0, 0, 0, 3).tolist() == [0, 2, 4]
    assert second.ids(0, 0, 0, 3).tolist() == [1, 3, 5]
    assert first.position(0, 2) == 4
    wrapped = ranks(2, num_samples=7, shuffle="none", tail="wrap")
    assert [order.ids(0, 4, 0, 2).tolist() for order in wrapped] == [[4, 6], [5, 0]]
    assert wrapped[0].position(4, 2) == 7
    assert wrapped[0].num_local(7) == 0


def test_wrap_goes_round_more_than_once() -> None:
    shares = [rest(order, 0, 0) for order in ranks(8, num_samples=3, shuffle="none", tail="wrap")]
    assert shares == [[0], [1], [2], [0], [1], [2], [0], [1]]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"num_samples": -1}, "num_samples is -1: give 0 or more"),
        ({"world": 0}, "rank 0 of world 0"),
        ({"rank": 2, "world": 2}, "rank 2 of world 2"),
        ({"rank": -1}, "rank -1 of world 1"),
        ({"shuffle": "some"}, "shuffle is 'some': give 'full' or 'none'"),
        ({"tail": "keep"}, "tail is 'keep': give 'drop' or 'wrap'"),
    ],
)
def test_illegal_orders(options: dict[str, object], said: str) -> None:
    with pytest.raises(PipelineError, match=said):
        Order(**{"num_samples": 5, **options})  # type: ignore[arg-type]


@pytest.mark.parametrize("start", [-1, 11])
def test_position_of_other_data(start: int) -> None:
    with pytest.raises(StateError, match=f"position {start} lies outside an epoch of 10 samples"):
        Order(num_samples=10).num_local(start)


@pytest.mark.parametrize(("first", "last"), [(-1, 2), (3, 2), (0, 6)])
def test_ids_outside_the_share(first: int, last: int) -> None:
    with pytest.raises(IndexError, match=f"samples {first} to {last} asked for"):
        Order(num_samples=10, world=2).ids(0, 0, first, last)


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
