"""Mixtures against a twin that deals turn by turn with counters and lists."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iopipe.errors import PipelineError
from iopipe.order import BlockShuffle, FullShuffle, Mixture, Order, Stored, phases_of
from iopipe.order.mixture import Phase, exact_counts
from iopipe.order.share import Cursor


def mixture_of(sizes: list[int], weights: list[float], **options: Any) -> Mixture:
    names = tuple("abcdefgh"[: len(sizes)])
    kinds = [
        FullShuffle(num_samples=size, seed=number)
        if number % 2
        else BlockShuffle(num_samples=size, seed=number, block_samples=3, window_blocks=2)
        for number, size in enumerate(sizes)
    ]
    schedule = {0: dict(zip(names, weights, strict=True)), **options.pop("schedule", {})}
    return Mixture(names=names, parts=tuple(kinds), phases=phases_of(names, schedule), **options)


def whole(mixture: Mixture, epoch: int = 0) -> np.ndarray:
    return mixture.ids(epoch, np.arange(mixture.num_positions(epoch)))


def by_source(mixture: Mixture, ids: np.ndarray) -> list[list[int]]:
    """The samples of each source, as that source numbers them, in their order."""
    sizes = [part.num_positions(0) for part in mixture.parts]
    ends = np.cumsum(sizes)
    parts = np.searchsorted(ends, ids, side="right")
    return [(ids[parts == at] - ends[at] + sizes[at]).tolist() for at in range(len(sizes))]


def own_orders(mixture: Mixture, num_epochs: int) -> list[list[int]]:
    """Each source by itself, epoch after epoch."""
    orders = []
    for part in mixture.parts:
        places = np.arange(part.num_positions(0))
        orders.append([i for epoch in range(num_epochs) for i in part.ids(epoch, places).tolist()])
    return orders


sources = st.integers(1, 4).flatmap(
    lambda num: st.tuples(
        st.lists(st.integers(1, 300), min_size=num, max_size=num),
        st.lists(st.sampled_from([0.1, 0.2, 0.35, 1.0, 3.0]), min_size=num, max_size=num),
    )
)


@settings(deadline=None)
@given(sources=sources, stop=st.sampled_from(["first", "all"]), seed=st.integers(0, 5))
def test_each_source_comes_in_its_own_order_without_a_gap(
    sources: tuple[list[int], list[float]], stop: str, seed: int
) -> None:
    """Over three epochs, and the first ends exactly where its rule says."""
    mixture = mixture_of(*sources, stop=stop, seed=seed)
    taken: list[list[int]] = [[] for _ in mixture.parts]
    for epoch in range(3):
        ids = whole(mixture, epoch)
        for mine, new in zip(taken, by_source(mixture, ids), strict=True):
            mine += new
        if epoch == 0:
            through = [len(mine) >= size for mine, size in zip(taken, sources[0], strict=True)]
            before = [
                len(mine) >= size
                for mine, size in zip(by_source(mixture, ids[:-1]), sources[0], strict=True)
            ]
            rule = any if stop == "first" else all
            assert rule(through) and not rule(before)
    most = max(len(mine) // size for mine, size in zip(taken, sources[0], strict=True)) + 1
    for mine, order in zip(taken, own_orders(mixture, most), strict=True):
        assert mine == order[: len(mine)]


@settings(deadline=None)
@given(sources=sources, seed=st.integers(0, 5), data=st.data())
def test_any_positions_agree_with_the_whole(
    sources: tuple[list[int], list[float]], seed: int, data: st.DataObject
) -> None:
    mixture = mixture_of(*sources, seed=seed)
    full = whole(mixture, 1)
    picks = data.draw(st.lists(st.integers(0, len(full) - 1), max_size=30))
    assert mixture.ids(1, np.array(picks, np.int64)).tolist() == [full[at] for at in picks]


def test_without_end_epochs_are_stretches_of_one_sequence() -> None:
    mixture = mixture_of([7, 50, 11], [0.5, 0.3, 0.2], stop="repeat", epoch_samples=333)
    ids = np.concatenate([whole(mixture, epoch) for epoch in range(9)])
    for mine, order in zip(by_source(mixture, ids), own_orders(mixture, 400), strict=True):
        assert mine == order[: len(mine)]


@pytest.mark.parametrize(
    "weights", [[0.7, 0.2, 0.1], [1, 1, 1], [0.123456789, 0.5, 3.1], [2, 0, 1]]
)
def test_shares_are_as_asked_for(weights: list[float]) -> None:
    sizes = [20_000, 20_000, 20_000]
    mixture = mixture_of(sizes, weights, stop="repeat")
    counts = [len(mine) for mine in by_source(mixture, whole(mixture))]
    for count, weight in zip(counts, weights, strict=True):
        assert abs(count / sum(counts) - weight / sum(weights)) < 0.01


def test_turns_are_shuffled() -> None:
    """Runs of one source are as long as chance makes them."""
    mixture = mixture_of([50_000, 50_000], [1, 1], stop="first")
    parts = whole(mixture) >= 50_000
    num_runs = 1 + np.count_nonzero(parts[1:] != parts[:-1])
    # Dealt without replacement from blocks of 512: 1 + 512 / 2 runs each, deviation 11.3.
    num_blocks = len(parts) / 512
    assert abs(num_runs - num_blocks * 256.5) < 5 * 11.3 * np.sqrt(num_blocks)


def test_weights_change_where_the_schedule_says() -> None:
    change = {1000: {"a": 0.0, "b": 1.0}, 1500: {"a": 1.0, "b": 1.0}}
    mixture = mixture_of([5000, 5000], [1.0, 0.0], schedule=change, stop="repeat")
    parts = whole(mixture) >= 5000
    assert not parts[:1000].any() and parts[1000:1500].all()
    assert abs(parts[1500:].mean() - 0.5) < 0.02
    mine = by_source(mixture, whole(mixture))
    for found, order in zip(mine, own_orders(mixture, 2), strict=True):
        assert found == order[: len(found)]


@given(st.lists(st.floats(0, 1e6, allow_subnormal=False), min_size=1, max_size=9))
def test_counts_are_near_the_weights(weights: list[float]) -> None:
    if not sum(weights):
        with pytest.raises(PipelineError, match="not all of them 0"):
            exact_counts(weights)
        return
    counts = exact_counts(weights)
    assert 512 <= sum(counts) <= 4096
    for count, weight in zip(counts, weights, strict=True):
        assert (count > 0) == (weight > 0)
        # Those that are lifted to one come out of the largest.
        assert abs(count / sum(counts) - weight / sum(weights)) <= (1 + len(weights)) / 4096


def test_counts_of_simple_weights_are_exact() -> None:
    assert exact_counts([0.7, 0.3]) == (364, 156)
    assert exact_counts([1, 2]) == (171, 342)
    assert exact_counts([5]) == (512,)


def test_values_are_frozen() -> None:
    """Saved positions depend on these: a change breaks every resumed run."""
    mixture = mixture_of([6, 9], [1, 2], seed=4, stop="first")
    assert whole(mixture).tolist() == [0, 1, 7, 9, 14, 2, 8, 3, 4, 5]


def test_details_say_where_each_source_stands() -> None:
    mixture = mixture_of([10, 1000], [1, 1], stop="all", seed=3)
    ids = mixture.ids(2, np.arange(100))
    before = [len(mine) for mine in by_source(mixture, whole(mixture))]
    now = [2 * b + len(mine) for b, mine in zip(before, by_source(mixture, ids), strict=True)]
    assert mixture.details(2, 100) == {
        "sources": {
            "a": {"epoch": now[0] // 10, "position": now[0] % 10},
            "b": {"epoch": now[1] // 1000, "position": now[1] % 1000},
        }
    }


def test_the_identity_holds_all_that_decides_and_survives_json() -> None:
    one = mixture_of([10, 20], [1, 2])
    assert json.loads(json.dumps(one.identity())) == one.identity()
    others = [
        mixture_of([10, 20], [1, 3]),
        mixture_of([10, 21], [1, 2]),
        mixture_of([10, 20], [1, 2], seed=1),
        mixture_of([10, 20], [1, 2], stop="first"),
        mixture_of([10, 20], [1, 2], schedule={100: {"a": 1, "b": 1}}),
    ]
    assert all(other.identity() != one.identity() for other in others)


def test_ranks_share_a_mixture() -> None:
    mixture = mixture_of([40, 70], [0.3, 0.7], seed=2)
    taken: Counter[int] = Counter()
    for rank in range(3):
        order = Order(sequence=mixture, rank=rank, world=3, tail="pad")
        cursor = Cursor(epoch=1, position=5)
        num_local = order.num_local(cursor)
        ids = order.ids(cursor, 0, num_local)[: order.num_valid(cursor, 0, num_local)]
        taken.update(ids.tolist())
    assert taken == Counter(whole(mixture, 1)[5:].tolist())


def test_a_trillion_samples() -> None:
    mixture = mixture_of([10**12, 10**9], [0.999, 0.001], stop="all")
    assert mixture.num_positions(0) >= 10**12
    ids = mixture.ids(3, np.arange(10**11, 10**11 + 2000))
    assert len(np.unique(ids)) == 2000


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"stop": "never"}, "stop is 'never'"),
        ({"stop": "all", "epoch_samples": 5}, "epoch_samples is for stop='repeat'"),
        ({"phases": (Phase(start=4, counts=(1, 1)),)}, "ascending positions, 0 first"),
        ({"parts": (Stored(num_samples=0), Stored(num_samples=1))}, "'a' has no samples to mix"),
        ({"phases": (Phase(start=0, counts=(0, 1)),)}, "no source may end up with weight 0"),
    ],
)
def test_illegal_mixtures(options: dict[str, Any], said: str) -> None:
    legal = {
        "names": ("a", "b"),
        "parts": (Stored(num_samples=3), Stored(num_samples=4)),
        "phases": (Phase(start=0, counts=(256, 256)),),
    }
    with pytest.raises(PipelineError, match=said):
        Mixture(**{**legal, **options})


def test_weights_name_the_sources() -> None:
    with pytest.raises(PipelineError, match=r"weights are given for \['a', 'c'\]"):
        phases_of(("a", "b"), {0: {"a": 1, "c": 2}})


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), -1.0])
def test_weights_are_numbers(weight: float) -> None:
    with pytest.raises(PipelineError, match="give numbers >= 0"):
        exact_counts([0.5, weight])
