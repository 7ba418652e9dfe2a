"""Ranks share an epoch without loss, whatever their number, from wherever they enter."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iopipe.errors import PipelineError, StateError
from iopipe.order import BlockShuffle, Cursor, EpochSequence, FullShuffle, Order, Stored

SIZES = st.integers(1, 200)
WORLDS = st.integers(1, 9)
TAILS = st.sampled_from(["drop", "wrap", "pad"])


def sequence_of(shuffle: str, num_samples: int) -> EpochSequence:
    if shuffle == "block":
        return BlockShuffle(num_samples=num_samples, seed=8, block_samples=5, window_blocks=3)
    kind = {"full": FullShuffle, "none": Stored}[shuffle]
    return kind(num_samples=num_samples, seed=8)


SHUFFLES = st.sampled_from(["full", "none", "block"])


def ranks(sequence: EpochSequence, world: int, tail: str = "drop") -> list[Order]:
    return [Order(sequence=sequence, rank=rank, world=world, tail=tail) for rank in range(world)]  # type: ignore[arg-type]


def rest(order: Order, cursor: Cursor) -> list[int]:
    return order.ids(cursor, 0, order.num_local(cursor)).tolist()


def stored(num_samples: int, **options: Any) -> Order:
    return Order(sequence=Stored(num_samples=num_samples), **options)


@given(num_samples=st.integers(0, 200), world=WORLDS, tail=TAILS, shuffle=SHUFFLES)
def test_ranks_share_the_epoch(num_samples: int, world: int, tail: str, shuffle: str) -> None:
    orders = ranks(sequence_of(shuffle, num_samples), world, tail)
    shares = [rest(order, Cursor(epoch=4)) for order in orders]
    assert len({len(share) for share in shares}) == 1
    together = sorted(itertools.chain(*shares))
    if tail == "drop":
        assert len(together) == num_samples - num_samples % world
        assert len(set(together)) == len(together) and set(together) <= set(range(num_samples))
    else:
        assert len(together) == -(-num_samples // world) * world
        assert set(together) == set(range(num_samples))


@given(
    num_samples=st.integers(0, 200),
    world=WORLDS,
    batch_size=st.integers(1, 7),
    shuffle=SHUFFLES,
    data=st.data(),
)
def test_padding_fills_whole_batches_and_marks_each_true_sample_once(
    num_samples: int, world: int, batch_size: int, shuffle: str, data: st.DataObject
) -> None:
    orders = ranks(sequence_of(shuffle, num_samples), world, "pad")
    cursor = Cursor(position=data.draw(st.integers(0, num_samples)))
    true = []
    for order in orders:
        num_local = order.num_local(cursor, batch_size=batch_size)
        assert num_local % batch_size == 0
        assert 0 <= num_local * world - (num_samples - cursor.position) < world * batch_size
        ids = order.ids(cursor, 0, num_local)
        assert len(ids) == num_local
        true += ids[: order.num_valid(cursor, 0, num_local)].tolist()
        cut = data.draw(st.integers(0, num_local))
        parts = order.num_valid(cursor, 0, cut), order.num_valid(cursor, cut, num_local)
        assert sum(parts) == order.num_valid(cursor, 0, num_local)
    whole = sequence_of(shuffle, num_samples).ids(0, np.arange(num_samples))
    assert sorted(true) == sorted(whole[cursor.position :].tolist())


@given(
    num_samples=SIZES,
    worlds=st.lists(WORLDS, min_size=1, max_size=4),
    steps=st.lists(st.tuples(st.integers(0, 4), st.integers(1, 5)), min_size=4, max_size=4),
    tail=TAILS,
    shuffle=SHUFFLES,
    pending=st.sets(st.integers(0, 30)),
)
def test_another_world_continues_from_a_saved_place(
    num_samples: int,
    worlds: list[int],
    steps: list[tuple[int, int]],
    tail: str,
    shuffle: str,
    pending: set[int],
) -> None:
    """Each world takes some batches a rank, saves, and hands over; the last one finishes."""
    sequence = sequence_of(shuffle, num_samples)
    late = tuple(sorted(place for place in pending if place < num_samples))
    start = Cursor(epoch=2, position=max(late) + 1 if late else 0, pending=late)
    whole = rest(Order(sequence=sequence), start)
    assert set(whole[: len(late)]) == set(sequence.ids(2, np.array(late, np.int64)).tolist())
    cursor, taken = start, []
    for world, (num_steps, batch) in zip(worlds, steps, strict=False):
        group = ranks(sequence, world, tail)
        consumed = min(num_steps * batch, group[0].num_local(cursor))
        blocks = [order.ids(cursor, 0, consumed) for order in group]
        taken += np.stack(blocks, axis=1).ravel().tolist()  # in the order of the steps
        cursor = group[0].after(cursor, consumed)
        done = len(whole) - group[0].num_left(cursor)
        assert taken[:done] == whole[:done]
        assert len(taken) == done or not group[0].num_left(cursor)
    final = ranks(sequence, worlds[-1], tail)
    taken += itertools.chain(*[rest(order, cursor) for order in final])
    if tail == "drop":
        assert len(set(taken)) == len(taken) > len(whole) - worlds[-1]
    else:
        assert set(whole) <= set(taken)


@given(num_samples=SIZES, world=WORLDS, tail=TAILS, data=st.data())
def test_ids_come_in_any_blocks(
    num_samples: int, world: int, tail: str, data: st.DataObject
) -> None:
    rank = data.draw(st.integers(0, world - 1))
    cursor = Cursor(epoch=1, position=data.draw(st.integers(0, num_samples)))
    order = stored(num_samples, rank=rank, world=world, tail=tail)
    whole = rest(order, cursor)
    cut = data.draw(st.integers(0, len(whole)))
    blocks = [order.ids(cursor, 0, cut), order.ids(cursor, cut, len(whole))]
    assert np.concatenate(blocks).tolist() == whole


def test_worked_example() -> None:
    begin = Cursor()
    first, second = ranks(Stored(num_samples=7), 2)
    assert first.num_local(begin) == second.num_local(begin) == 3
    assert first.ids(begin, 0, 3).tolist() == [0, 2, 4]
    assert second.ids(begin, 0, 3).tolist() == [1, 3, 5]
    assert first.after(begin, 2) == Cursor(position=4)
    wrapped = ranks(Stored(num_samples=7), 2, "wrap")
    four = Cursor(position=4)
    assert [order.ids(four, 0, 2).tolist() for order in wrapped] == [[4, 6], [5, 0]]
    assert wrapped[0].after(four, 2) == Cursor(position=7)
    assert wrapped[0].num_local(Cursor(position=7)) == 0


def test_worked_example_with_positions_pending() -> None:
    cursor = Cursor(position=8, pending=(1, 5, 6))
    group = ranks(Stored(num_samples=11), 2)
    assert [rest(order, cursor) for order in group] == [[1, 6, 9], [5, 8, 10]]
    assert group[0].after(cursor, 1) == Cursor(position=8, pending=(6,))
    assert group[0].after(cursor, 2) == Cursor(position=9)


def test_wrap_goes_round_more_than_once() -> None:
    shares = [rest(order, Cursor()) for order in ranks(Stored(num_samples=3), 8, "wrap")]
    assert shares == [[0], [1], [2], [0], [1], [2], [0], [1]]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"world": 0}, "rank 0 of world 0"),
        ({"rank": 2, "world": 2}, "rank 2 of world 2"),
        ({"rank": -1}, "rank -1 of world 1"),
        ({"tail": "keep"}, "tail is 'keep': give 'drop', 'wrap' or 'pad'"),
    ],
)
def test_illegal_orders(options: dict[str, Any], said: str) -> None:
    with pytest.raises(PipelineError, match=said):
        stored(5, **options)


@pytest.mark.parametrize("position", [-1, 11])
def test_position_of_other_data(position: int) -> None:
    said = f"position {position} lies outside an epoch of 10 samples"
    with pytest.raises(StateError, match=said):
        stored(10).num_local(Cursor(position=position))


@pytest.mark.parametrize(("first", "last"), [(-1, 2), (3, 2), (0, 6)])
def test_ids_outside_the_share(first: int, last: int) -> None:
    with pytest.raises(IndexError, match=f"samples {first} to {last} asked for"):
        stored(10, world=2).ids(Cursor(), first, last)
