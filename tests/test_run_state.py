"""Where a run stands, and runs that go on from there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytest
from fakes.runs import nothing_left_behind, numbers_of
from fakes.source import numbers

from iopipe.errors import PipelineError, StateError


@pytest.fixture(autouse=True)
def _nothing_is_left_behind() -> Iterator[None]:
    with nothing_left_behind():
        yield


@pytest.mark.parametrize("num_batches", [0, 1, 5, 9, 10, 11, 17, 20])
def test_a_run_resumes_exactly_at_a_batch_boundary(num_batches: int) -> None:
    pipeline = numbers(95).shuffle(11).batch(10)
    whole = numbers_of(pipeline, num_epochs=2)
    with pipeline.run(num_epochs=2) as run:
        head = [batch["x"].tolist() for batch in islice(run, num_batches)]
        state = json.loads(json.dumps(run.state_dict()))
    with pipeline.run(num_epochs=2) as run:
        run.load_state_dict(state)
        assert len(run) == len(whole) - num_batches
        tail = [batch["x"].tolist() for batch in run]
    assert head + tail == whole


@pytest.mark.parametrize("num_samples", [0, 1, 7, 10, 23, 24, 25])
def test_a_run_over_samples_resumes_exactly_at_a_sample(num_samples: int) -> None:
    pipeline = numbers(25).shuffle(2)
    with pipeline.run() as run:
        whole = [sample["x"] for sample in run]
    with pipeline.run() as run:
        head = [sample["x"] for sample in islice(run, num_samples)]
        state = run.state_dict()
    with pipeline.run() as run:
        run.load_state_dict(state)
        tail = [sample["x"] for sample in run]
    assert head + tail == whole


@pytest.mark.parametrize(("old_world", "new_world"), [(4, 2), (2, 3), (1, 4), (3, 1)])
def test_a_state_continues_with_another_number_of_ranks(old_world: int, new_world: int) -> None:
    pipeline = numbers(480).shuffle(4)
    seen: list[int] = []
    for rank in range(old_world):
        with pipeline.split(rank, old_world).batch(10).run() as run:
            seen += [number for batch in islice(run, 4) for number in batch["x"].tolist()]
            state = run.state_dict()
    for rank in range(new_world):
        with pipeline.split(rank, new_world).batch(10).run() as run:
            run.load_state_dict(state)
            seen += [number for batch in run for number in batch["x"].tolist()]
    assert sorted(seen) == sorted(set(seen))
    assert len(seen) > 480 - new_world


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 12}, "seed is 12"),
        ({"dataset": "other"}, "dataset is 'other'"),
        ({"version": 99}, "version is 99"),
        ({"shuffle": "none"}, "shuffle is 'none'"),
        ({"position": -1}, "position"),
        ({"position": "7"}, "position"),
        ({"position": 10_000}, "outside an epoch of 95 samples"),
    ],
)
def test_a_state_that_does_not_fit_says_what_differs(change: dict[str, Any], message: str) -> None:
    with numbers(95).shuffle(11).batch(10).run() as run:
        state = run.state_dict() | change
        with pytest.raises(StateError, match=message):
            run.load_state_dict(state)


def test_a_state_comes_before_the_first_batch() -> None:
    with numbers(95).batch(10).run() as run:
        next(run)
        with pytest.raises(StateError, match="before the first batch"):
            run.load_state_dict(run.state_dict())


def test_a_state_of_an_epoch_behind_the_runs_end_is_refused() -> None:
    pipeline = numbers(8).batch(4)
    with pipeline.run(epoch=2, num_epochs=2) as run:
        next(run)
        state = run.state_dict()
        with pytest.raises(StateError, match=r"stands in epoch 2, this run ends before epoch 1"):
            pipeline.run().load_state_dict(state)
        list(run)
        state = run.state_dict()
    with pipeline.run(epoch=3) as run:
        run.load_state_dict(state)  # it was through
        assert list(run) == []


@pytest.mark.parametrize("options", [{"epoch": -1}, {"num_epochs": -1}])
def test_epochs_are_counted_from_none(options: dict[str, int]) -> None:
    with pytest.raises(PipelineError, match="give whole numbers >= 0"):
        numbers(8).batch(4).run(**options)
