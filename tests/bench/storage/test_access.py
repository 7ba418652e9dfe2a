"""Access patterns beside naive twins."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iopipe.bench.storage.access import SHARD_BYTES, Pass
from iopipe.bench.storage.jobs import Access
from iopipe.errors import PipelineError

SIZES = st.lists(st.integers(0, 40), min_size=1, max_size=5).filter(lambda s: max(s) >= 4)


def _every_block(sizes: list[int], block: int) -> list[tuple[int, int]]:
    return [
        (file, start)
        for file, size in enumerate(sizes)
        for start in range(0, size, block)
        if start + block <= size
    ]


def _lanes(
    sizes: list[int], access: Access, num_lanes: int, most: int = 100
) -> list[list[tuple[int, int]]]:
    plan = Pass(sizes=sizes, block_bytes=4, access=access, seed=7)
    return [[tuple(b) for b in lane.tolist()] for lane in plan.lanes(num_lanes, most=most)]


@given(SIZES, st.integers(1, 4))
def test_sequential_lanes_take_turns(sizes: list[int], num_lanes: int) -> None:
    expected = _every_block(sizes, 4)
    assert _lanes(sizes, "sequential", num_lanes) == [
        expected[n::num_lanes] for n in range(num_lanes)
    ]


@given(SIZES, st.integers(1, 4), st.sampled_from(("random", "shards")))
def test_each_block_is_read_once(sizes: list[int], num_lanes: int, access: Access) -> None:
    lanes = _lanes(sizes, access, num_lanes)
    assert sorted(block for lane in lanes for block in lane) == _every_block(sizes, 4)


def test_random_order_is_no_order_and_keeps_its_seed() -> None:
    first, again = (_lanes([4000], "random", 1, most=1000)[0] for _ in range(2))
    assert first == again != sorted(first)
    steps = np.diff([offset for _, offset in first])
    assert len(set(steps.tolist())) > 500


@pytest.mark.parametrize("total", [1000, 10**9])
def test_a_part_of_a_random_pass_has_no_block_twice(total: int) -> None:
    (lane,) = _lanes([total * 4], "random", 1, most=500)
    assert len(set(lane)) == len(lane) == 500
    assert all(0 <= offset < total * 4 and offset % 4 == 0 for _, offset in lane)
    # Spread over the whole file: of 500 draws none of the ten tenths is left out.
    assert len({offset * 10 // (total * 4) for _, offset in lane}) == 10


def test_shards_are_read_from_end_to_end() -> None:
    block = SHARD_BYTES // 4
    plan = Pass(sizes=[10 * SHARD_BYTES, SHARD_BYTES // 2], block_bytes=block, access="shards")
    lanes = plan.lanes(3, most=100)
    seen = []
    for lane in lanes:
        places = [(file, start // SHARD_BYTES) for file, start in lane.tolist()]
        shards = list(dict.fromkeys(places))
        # Naive twin: the blocks of each shard in a row, in ascending order.
        expected = [
            [file, start]
            for file, shard in shards
            for start in range(shard * SHARD_BYTES, (shard + 1) * SHARD_BYTES, block)
            if start + block <= plan.sizes[file]
        ]
        assert lane.tolist() == expected
        seen += shards
    assert sorted(seen) == [(0, n) for n in range(10)] + [(1, 0)]
    assert seen != sorted(seen)


def test_blocks_that_fit_nowhere_are_an_error() -> None:
    with pytest.raises(PipelineError, match="larger than every file"):
        _lanes([3, 2], "random", 1)


def test_a_twin_of_the_places() -> None:
    sizes = [random.Random(n).randrange(30) for n in range(20)]
    assert _lanes(sizes, "sequential", 1)[0] == _every_block(sizes, 4)
