"""Runs: what comes out, in which order, after which errors, and what is left behind."""

from __future__ import annotations

import gc
import json
import os
import threading
from collections.abc import Iterator
from itertools import chain, islice
from typing import Any

import pytest
import torch
from fakes.link import FakeLink
from fakes.source import FakeToolkit, NumberSource, numbers

from iopipe.errors import DataError, ErrorBudgetExceeded, PipelineError, StateError
from iopipe.pipeline import Pipeline
from iopipe.progress import merge_states


@pytest.fixture(autouse=True)
def _nothing_is_left_behind() -> Iterator[None]:
    before = _threads(), len(os.listdir("/proc/self/fd"))
    yield
    gc.collect()
    assert (_threads(), len(os.listdir("/proc/self/fd"))) == before


def _threads() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("iopipe")}


def _numbers_of(pipeline: Pipeline, **options: Any) -> list[list[int]]:
    with pipeline.run(**options) as run:
        return [batch["x"].tolist() for batch in run]


def test_samples_are_dicts_in_the_order_of_the_source() -> None:
    with numbers(25).run() as run:
        samples = list(run)
    assert samples == [{"__key__": f"k{i}", "x": i} for i in range(25)]


def test_batches_are_tensors_and_the_last_one_is_short() -> None:
    with numbers(10).batch(4).run() as run:
        assert len(run) == 3
        batches = list(run)
        assert len(run) == 0
    assert [batch["x"].tolist() for batch in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert batches[0]["x"].dtype == torch.int64
    assert batches[2]["__key__"] == ["k8", "k9"]


def test_a_short_last_batch_can_be_dropped() -> None:
    assert _numbers_of(numbers(10).batch(4, drop_last=True)) == [[0, 1, 2, 3], [4, 5, 6, 7]]


@pytest.mark.parametrize("sample_bytes", [10, 300_000, 5_000_000])
def test_chunking_changes_nothing(sample_bytes: int) -> None:
    pipeline = numbers(101, sample_bytes=sample_bytes).shuffle(3).batch(8)
    assert _numbers_of(pipeline) == _numbers_of(numbers(101).shuffle(3).batch(8))


@pytest.mark.parametrize("concurrency", [1, 5])
def test_threads_change_nothing(concurrency: int) -> None:
    def double(sample: dict[str, Any]) -> dict[str, Any]:
        return {**sample, "x": sample["x"] * 2}

    pipeline = numbers(200).map(double, concurrency=concurrency).batch(7)
    flat = [number for batch in _numbers_of(pipeline) for number in batch]
    assert flat == [2 * i for i in range(200)]


def test_epochs_follow_each_other_and_are_shuffled_differently() -> None:
    pipeline = numbers(60).shuffle(1).batch(20)
    together = _numbers_of(pipeline, num_epochs=2)
    apart = _numbers_of(pipeline) + _numbers_of(pipeline, epoch=1)
    assert together == apart
    first, second = (list(chain(*batches)) for batches in (together[:3], together[3:]))
    assert sorted(first) == sorted(second) == list(range(60))
    assert first != second


def test_a_run_without_end_goes_on() -> None:
    with numbers(3).batch(2).run(num_epochs=None) as run:
        assert len([batch["x"] for batch in islice(run, 50)]) == 50
        with pytest.raises(TypeError, match="num_epochs"):
            len(run)


def test_ranks_share_an_epoch_in_equal_numbers_of_batches() -> None:
    parts = [_numbers_of(numbers(103).shuffle(5).split(rank, 4).batch(5)) for rank in range(4)]
    assert {len(part) for part in parts} == {5}
    seen = [number for part in parts for batch in part for number in batch]
    assert len(seen) == len(set(seen)) == 100


def test_map_after_batch_works_on_batches() -> None:
    pipeline = numbers(6).batch(3).map(lambda batch: {**batch, "sum": batch["x"].sum()[None]})
    with pipeline.run() as run:
        assert [batch["sum"].item() for batch in run] == [3, 12]


def test_map_may_leave_samples_out() -> None:
    pipeline = numbers(10).map(lambda sample: sample if sample["x"] % 3 else None).batch(5)
    assert _numbers_of(pipeline) == [[1, 2, 4], [5, 7, 8]]


# ---- errors --------------------------------------------------------------------------


def test_an_error_comes_after_the_batches_before_it_and_names_its_place() -> None:
    delivered = []
    with (
        pytest.raises(DataError, match=r"'memory://numbers'.*offset 1300000.*'k13'") as caught,
        numbers(30, bad=[13]).batch(4).run() as run,
    ):
        delivered.extend(batch["x"].tolist() for batch in run)
    assert delivered == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert "in stage 'read'" in caught.value.__notes__


def test_an_error_of_a_users_function_keeps_its_type_and_names_stage_and_sample() -> None:
    def fail(sample: dict[str, Any]) -> dict[str, Any]:
        return {"x": 1 // (sample["x"] - 7)}

    with pytest.raises(ZeroDivisionError) as caught, numbers(20).map(fail).batch(4).run() as run:
        list(run)
    notes = " ".join(caught.value.__notes__)
    assert "stage 'fail'" in notes
    assert "'k7'" in notes


def test_an_error_in_a_batch_function_names_its_stage() -> None:
    def fail(batch: dict[str, Any]) -> dict[str, Any]:
        raise KeyError("nothing here")

    with pytest.raises(KeyError) as caught, numbers(20).batch(4).map(fail).run() as run:
        list(run)
    assert "stage 'fail'" in " ".join(caught.value.__notes__)


def test_skipped_samples_shorten_their_own_batch_only_and_are_reported() -> None:
    with numbers(16, bad=[1, 2, 9], on_error="skip").batch(4).run() as run:
        batches = [batch["x"].tolist() for batch in run]
        errors = run.report().errors
    assert batches == [[0, 3], [4, 5, 6, 7], [8, 10, 11], [12, 13, 14, 15]]
    assert errors.num_skipped == 3
    assert any("'k9'" in example for example in errors.examples)


def test_more_errors_than_the_budget_end_the_run() -> None:
    pipeline = numbers(100, bad=range(0, 100, 10), on_error="skip", max_errors=4).batch(10)
    with pytest.raises(ErrorBudgetExceeded, match="max_errors=4"), pipeline.run() as run:
        list(run)


def test_a_users_function_may_declare_a_sample_damaged() -> None:
    def check(sample: dict[str, Any]) -> dict[str, Any]:
        if sample["x"] == 5:
            raise DataError("five is not wanted")
        return sample

    with numbers(8, on_error="skip").map(check).batch(4).run() as run:
        assert [batch["x"].tolist() for batch in run] == [[0, 1, 2, 3], [4, 6, 7]]
        assert run.report().errors.num_skipped == 1


def test_quarantined_samples_are_not_tried_again() -> None:
    pipeline = numbers(8, bad=[3], on_error="quarantine").batch(4)
    with pipeline.run(num_epochs=2) as run:
        assert [batch["x"].tolist() for batch in run] == [[0, 1, 2], [4, 5, 6, 7]] * 2
        state = run.state_dict()
        num_skipped = run.report().errors.num_skipped
    assert state["quarantined"] == [3]
    assert num_skipped <= 2  # the second epoch may have been read ahead before the first find
    assert isinstance(pipeline.source, NumberSource)
    pipeline.source.bad.clear()
    with pipeline.run(num_epochs=3) as resumed:
        resumed.load_state_dict(state)
        assert next(resumed)["x"].tolist() == [0, 1, 2]


# ---- state ---------------------------------------------------------------------------


@pytest.mark.parametrize("num_batches", [0, 1, 5, 9, 10, 11, 17, 20])
def test_a_run_resumes_exactly_at_a_batch_boundary(num_batches: int) -> None:
    pipeline = numbers(95).shuffle(11).batch(10)
    whole = _numbers_of(pipeline, num_epochs=2)
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


# ---- life and death ------------------------------------------------------------------


def test_two_runs_of_one_pipeline_side_by_side() -> None:
    pipeline = numbers(50).shuffle(1).batch(10)
    with pipeline.run() as first, pipeline.run(epoch=1) as second:
        pairs = list(zip(first, second, strict=True))
    assert [pair[0]["x"].tolist() for pair in pairs] == _numbers_of(pipeline)
    assert [pair[1]["x"].tolist() for pair in pairs] == _numbers_of(pipeline, epoch=1)


def test_a_run_that_is_left_early_stops_its_threads() -> None:
    with numbers(10_000).batch(2).run() as run:
        next(run)
        assert _threads()
    assert not _threads()
    with pytest.raises(PipelineError, match="closed"):
        next(run)


def test_a_run_that_is_dropped_stops_its_threads() -> None:
    run = numbers(10_000).batch(2).run()
    next(run)
    assert _threads()
    del run
    gc.collect()
    assert not _threads()


def test_a_finished_run_stays_finished() -> None:
    with numbers(4).batch(4).run() as run:
        assert len(list(run)) == 1
        assert list(run) == []


def test_a_run_closes_the_store_it_opened() -> None:
    toolkit = FakeToolkit()
    _numbers_of(numbers(4, toolkit=toolkit).batch(2))
    assert len(toolkit.stores) == 1


def test_an_empty_source_gives_no_batches() -> None:
    assert _numbers_of(numbers(0).batch(4)) == []


def test_a_device_run_hands_over_what_it_copied() -> None:
    link = FakeLink()
    with numbers(40, toolkit=FakeToolkit(link)).batch(4).to("fake").run() as run:
        seen = []
        for batch in run:
            link.finish()
            seen.append(batch["x"].tolist())
    assert seen == [[4 * i, 4 * i + 1, 4 * i + 2, 4 * i + 3] for i in range(10)]


def test_padding_keeps_shapes_and_marks_what_counts() -> None:
    seen = []
    for rank in range(3):
        pipeline = numbers(20).shuffle(1).split(rank, 3, tail="pad").batch(4)
        with pipeline.run() as run:
            assert len(run) == 2
            batches = list(run)
        assert [len(batch["x"]) for batch in batches] == [4, 4]
        assert batches[0]["__valid__"].dtype == torch.bool
        seen += [int(x) for batch in batches for x in batch["x"][batch["__valid__"]]]
    assert sorted(seen) == list(range(20))


def test_padding_survives_functions_that_leave_samples_out() -> None:
    def odd(sample: dict[str, Any]) -> dict[str, Any] | None:
        return {"y": sample["x"]} if sample["x"] % 2 else None

    with numbers(10).split(0, 1, tail="pad").map(odd).batch(4).run() as run:
        batches = list(run)
    counted = [batch["y"][batch["__valid__"]].tolist() for batch in batches]
    assert counted == [[1, 3], [5, 7], [9]]
    assert batches[-1]["y"].tolist() == [9, 1]  # 8, 9, and 0 and 1 to fill up


def test_padding_and_dropping_contradict() -> None:
    with pytest.raises(PipelineError, match="give one of them"):
        numbers(10).split(0, 1, tail="pad").batch(4, drop_last=True).run()


def test_a_block_shuffle_resumes_with_another_world() -> None:
    pipeline = numbers(100).shuffle(3, mode="block", block_samples=7, window_blocks=2)
    with pipeline.split(0, 1).batch(10).run() as run:
        seen = next(run)["x"].tolist() + next(run)["x"].tolist()
        state = run.state_dict()
    assert state["block_samples"] == 7
    for rank in range(2):
        with pipeline.split(rank, 2).batch(8).run() as run:
            run.load_state_dict(state)
            seen += [x for batch in run for x in batch["x"].tolist()]
    assert sorted(seen) == list(range(100))


# ---- batches that overtake each other ---------------------------------------------------


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


# ---- random functions --------------------------------------------------------------------


def _drawn(sample: dict[str, Any], draws: Any) -> dict[str, Any]:
    return {"x": sample["x"], "draw": int(draws.integers(1 << 40))}


def test_draws_belong_to_the_sample_whoever_works_on_it() -> None:
    pipeline = numbers(60).shuffle(5)
    runs = []
    for concurrency, world in ((1, 1), (4, 1), (2, 3)):
        found = {}
        for rank in range(world):
            mapped = pipeline.split(rank, world).map(_drawn, random=True, concurrency=concurrency)
            with mapped.batch(7).run(epoch=2) as run:
                for batch in run:
                    found.update(zip(batch["x"].tolist(), batch["draw"].tolist(), strict=True))
        runs.append(found)
    assert len(runs[0]) == 60 and len(set(runs[0].values())) == 60
    assert runs[0] == runs[1] == runs[2]
    with pipeline.map(_drawn, random=True).run(epoch=3) as run:
        assert {sample["draw"] for sample in run}.isdisjoint(runs[0].values())
    with pipeline.map(_drawn, random=True, name="other").run(epoch=2) as run:
        assert {sample["draw"] for sample in run}.isdisjoint(runs[0].values())


def test_two_functions_do_not_draw_the_same_numbers_unseen() -> None:
    with pytest.raises(PipelineError, match="would draw the same numbers; give name="):
        numbers(5).map(_drawn, random=True).map(_drawn, random=True)
    with pytest.raises(PipelineError, match="call map before batch"):
        numbers(5).batch(2).map(_drawn, random=True)
