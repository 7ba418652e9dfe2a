"""A place says exactly what is still to come: against sets, for any ranks and any order."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iopipe.errors import StateError
from iopipe.order import Cursor, FullShuffle, Order, Tail
from iopipe.plan import SamplePlan
from iopipe.progress import Progress, merge_states, place_of


def plan_of(
    num_samples: int, *, rank: int = 0, world: int = 1, batch_size: int = 4, tail: Tail = "wrap"
) -> SamplePlan:
    sequence = FullShuffle(num_samples=num_samples, seed=2)
    return SamplePlan(
        order=Order(sequence=sequence, rank=rank, world=world, tail=tail),
        batch_size=batch_size,
        drop_last=False,
        chunk_samples=batch_size,
        end_epoch=None,
    )


def left_of(num_samples: int, cursor: Cursor) -> set[int]:
    """The samples of the epoch that are still to come."""
    order = Order(sequence=FullShuffle(num_samples=num_samples, seed=2))
    return set(order.ids(cursor, 0, order.num_local(cursor)).tolist())


@given(
    num_samples=st.integers(1, 120),
    worlds=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    batch_size=st.integers(1, 6),
    seed=st.integers(0, 1000),
)
def test_ranks_that_deliver_in_any_order_and_change_in_number(
    num_samples: int, worlds: list[int], batch_size: int, seed: int
) -> None:
    """Each world delivers some batches, each rank in an order of its own, and saves; what the
    merged state still holds is what was not delivered, and the last world finishes it."""
    generator = random.Random(seed)
    left = set(range(num_samples))
    cursor = Cursor(epoch=1)
    for world in worlds:
        plans = [
            plan_of(num_samples, rank=rank, world=world, batch_size=batch_size)
            for rank in range(world)
        ]
        num_batches = plans[0].num_batches(cursor)
        if num_batches < 2:
            break
        num_steps = generator.randint(0, num_batches - 1)
        states = []
        for plan in plans:
            progress = Progress(plan, cursor, in_order=False)
            for number in generator.sample(range(num_batches), num_steps):
                first = number * batch_size
                last = min(first + batch_size, plan.num_samples(cursor))
                progress.record(cursor, first, last)
                num_valid = plan.order.num_valid(cursor, first, last)
                left -= set(plan.order.ids(cursor, first, last)[:num_valid].tolist())
            states.append(json.loads(json.dumps(progress.state())))
        merged = states[0] if world == 1 else merge_states(states)
        cursor = place_of(merged)
        assert left_of(num_samples, cursor) == left
        assert len(left_of(num_samples, cursor)) == Order(
            sequence=FullShuffle(num_samples=num_samples, seed=2)
        ).num_left(cursor)


@given(num_batches=st.integers(1, 12), seed=st.integers(0, 100))
def test_one_rank_in_any_order_ends_where_the_next_epoch_begins(
    num_batches: int, seed: int
) -> None:
    plan = plan_of(4 * num_batches)
    progress = Progress(plan, Cursor(), in_order=False)
    for number in random.Random(seed).sample(range(num_batches), num_batches):
        progress.record(Cursor(), 4 * number, 4 * number + 4)
    assert progress.cursor == Cursor(epoch=1)
    assert place_of(progress.state()) == Cursor(epoch=1)


def test_worked_example() -> None:
    """Batches 0, 2 and 3 of 4 samples were delivered: 4 to 7 are pending."""
    progress = Progress(plan_of(40), Cursor(), in_order=False)
    for number in (2, 0, 3):
        progress.record(Cursor(), 4 * number, 4 * number + 4)
    assert progress.cursor == Cursor(position=4)
    assert progress.state() == {"epoch": 0, "position": 16, "pending": [4, 5, 6, 7]}


def parts(world: int = 2) -> list[dict[str, object]]:
    states: list[dict[str, object]] = []
    for rank in range(world):
        progress = Progress(plan_of(40, rank=rank, world=world), Cursor(), in_order=False)
        progress.record(Cursor(), 4 * rank, 4 * rank + 4)
        states.append({**progress.state(), "seed": 2, "quarantined": [rank + 5]})
    return states


def test_merged_states_are_in_the_order_of_the_ranks_and_hold_all_quarantined() -> None:
    one, other = parts()
    merged = merge_states([other, one])
    assert merged == {
        "epoch": 0,
        "position": 16,
        "pending": [1, 3, 5, 7, 8, 10, 12, 14],
        "seed": 2,
        "quarantined": [5, 6],
    }


def test_states_in_order_are_the_same_on_every_rank() -> None:
    state = Progress(plan_of(40), Cursor(epoch=3, position=8)).state()
    assert merge_states([state]) == {**state, "quarantined": []}


@pytest.mark.parametrize(
    ("states", "said"),
    [
        ([], "there are no states to merge"),
        (parts()[:1], r"states of ranks \[0\] were given, needed is one of each of 2"),
        ([parts()[0], parts()[0]], r"states of ranks \[0, 0\]"),
        ([parts()[0], {**parts()[1], "seed": 3}], "saved at different places"),
    ],
)
def test_states_that_do_not_belong_together(states: list[dict[str, object]], said: str) -> None:
    with pytest.raises(StateError, match=said):
        merge_states(states)


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (parts()[1], "part of rank 1 of 2.*iopipe.merge_states"),
        ({"epoch": 0, "position": 3, "pending": [2, 1]}, "must be ascending positions"),
        ({"epoch": 0, "position": 3, "pending": 2}, "must be ascending positions"),
        ({"epoch": 0, "position": True}, r"state\['position'\] is True"),
    ],
)
def test_states_that_name_no_place(state: dict[str, object], said: str) -> None:
    with pytest.raises(StateError, match=said):
        place_of(state)


@pytest.mark.parametrize("pending", [(3, 9), (-1,)])
def test_a_place_with_positions_that_cannot_be_pending(pending: tuple[int, ...]) -> None:
    with pytest.raises(StateError, match="pending"):
        plan_of(40).check(Cursor(position=8, pending=pending))


def test_a_place_in_a_huge_epoch_is_found_at_once() -> None:
    plan = plan_of(10**12, world=8, rank=3)
    cursor = Cursor(position=10**9 * 64)
    task = next(plan.tasks(cursor))
    assert len(task.ids) == 4 and len(np.unique(task.ids)) == 4
