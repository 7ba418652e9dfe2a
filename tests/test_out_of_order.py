"""Batches that overtake each other: which ones may, and how such a run goes on."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from itertools import chain
from typing import Any

import pytest
import torch
from fakes.runs import nothing_left_behind
from fakes.source import numbers

from iopipe.errors import DataError, PipelineError, StateError
from iopipe.progress import merge_states


@pytest.fixture(autouse=True)
def _nothing_is_left_behind() -> Iterator[None]:
    with nothing_left_behind():
        yield


def _held_up(number: int, held: threading.Event) -> Any:
    def wait(sample: dict[str, Any]) -> dict[str, Any]:
        if sample["x"] == number:
            assert held.wait(30)
        return sample

    return wait


def test_a_slow_sample_holds_up_its_own_batch_only_and_the_window_bounds_the_rest() -> None:
    held = threading.Event()
    pipeline = numbers(120).map(_held_up(1, held), concurrency=2).batch(4)
    with pipeline.run(in_order=False, window=6) as run:
        early = [next(run)["x"].tolist() for _ in range(5)]
        assert [1] not in early and all(1 not in batch for batch in early)
        assert run.state_dict()["pending"] == [0, 1, 2, 3]
        assert len(run) == 25
        timer = threading.Timer(0.2, held.set)  # a sixth is not let in: only this one is left
        timer.start()
        assert next(run)["x"].tolist() == [0, 1, 2, 3]
        rest = [batch["x"].tolist() for batch in run]
    assert sorted(chain(*early, [0, 1, 2, 3], *rest)) == list(range(120))


def test_epochs_do_not_mix() -> None:
    held = threading.Event()
    pipeline = numbers(16).map(_held_up(13, held), concurrency=2).batch(4)
    with pipeline.run(in_order=False, num_epochs=2) as run:
        first = [next(run)["x"].tolist() for _ in range(3)]
        held.set()
        first.append(next(run)["x"].tolist())
        assert run.epoch == 1
        second = [batch["x"].tolist() for batch in run]
    assert sorted(chain(*first)) == sorted(chain(*second)) == list(range(16))


@pytest.mark.parametrize("new_world", [1, 2, 5])
def test_ranks_out_of_order_are_continued_by_any_number_of_ranks(new_world: int) -> None:
    seen, states = [], []
    for rank in range(3):
        held = threading.Event()
        pipeline = numbers(200).shuffle(7)
        slow = int(pipeline.order.sequence.ids(0, torch.arange(rank, rank + 1).numpy())[0])
        pipeline = pipeline.split(rank, 3).map(_held_up(slow, held), concurrency=2).batch(4)
        with pipeline.run(in_order=False) as run:
            seen += [x for _ in range(4) for x in next(run)["x"].tolist()]
            states.append(json.loads(json.dumps(run.state_dict())))
            with pytest.raises(StateError, match=f"part of rank {rank} of 3"):
                numbers(200).shuffle(7).run().load_state_dict(states[-1])
            held.set()
    state = merge_states(states)
    assert len(state["pending"]) >= 12 and set(range(3)) <= set(state["pending"])
    for rank in range(new_world):
        pipeline = numbers(200).shuffle(7).split(rank, new_world, tail="pad").batch(6)
        with pipeline.run() as run:
            run.load_state_dict(state)
            seen += [x for batch in run for x in batch["x"][batch["__valid__"]].tolist()]
    assert sorted(seen) == list(range(200))


def test_an_error_ends_a_run_out_of_order() -> None:
    pipeline = numbers(100, bad=[50]).batch(4)
    with pytest.raises(DataError, match="number 50 is bad"), pipeline.run(in_order=False) as run:
        list(run)


def test_out_of_order_is_about_batches() -> None:
    with pytest.raises(PipelineError, match="call batch"):
        numbers(5).run(in_order=False)
    with pytest.raises(PipelineError, match="window is 0"):
        numbers(5).batch(2).run(in_order=False, window=0)
