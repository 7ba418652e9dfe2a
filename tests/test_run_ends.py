"""How runs end: by every error, and by nothing else; and where they go on after it."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from fakes.source import numbers

from iopipe.errors import PipelineError, StateError, StorageError
from iopipe.ledger import LedgerReader, LedgerWriter
from iopipe.order import Mixture, Order, Stored, phases_of
from iopipe.pipeline import Pipeline
from iopipe.protocols import Int64Array


def _numbers_of(pipeline: Pipeline) -> list[list[int]]:
    with pipeline.run() as run:
        return [batch["x"].tolist() for batch in run]


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("error", [SystemExit, BaseException])
def test_whatever_ends_a_function_ends_the_run(error: type[BaseException], batched: bool) -> None:
    """A thread that died of it would be waited for, for ever."""

    def fail(_: dict[str, Any]) -> dict[str, Any]:
        raise error("enough")

    pipeline = numbers(20).batch(4).map(fail) if batched else numbers(20).map(fail).batch(4)
    with pytest.raises(error, match="enough") as caught, pipeline.run() as run:
        next(run)
    assert "stage 'fail'" in " ".join(caught.value.__notes__)


@pytest.mark.parametrize("batched", [False, True])
def test_a_function_cannot_end_the_loop_over_a_run(batched: bool) -> None:
    def empty(_: dict[str, Any]) -> dict[str, Any]:
        raise StopIteration

    pipeline = numbers(20).batch(4).map(empty) if batched else numbers(20).map(empty).batch(4)
    with pytest.raises(RuntimeError, match="raised StopIteration") as caught, pipeline.run() as run:
        list(run)
    assert isinstance(caught.value.__cause__, StopIteration)


def test_batch_functions_may_drop_the_keys() -> None:
    def fail(batch: dict[str, Any]) -> dict[str, Any]:
        raise KeyError(f"only {sorted(batch)}")

    pipeline = numbers(8).batch(4).map(lambda batch: {"y": batch["x"]})
    with pipeline.run() as run:
        assert next(run)["__key__"] == ["k0", "k1", "k2", "k3"]
    with pytest.raises(KeyError) as caught, pipeline.map(fail).run() as run:
        next(run)
    assert "batch of keys 'k0' to 'k3'" in " ".join(caught.value.__notes__)
    pipeline = numbers(8).batch(4).map(lambda batch: {"__key__": []}).map(fail)
    with pytest.raises(KeyError) as caught, pipeline.run() as run:
        next(run)
    assert caught.value.__notes__ == ["in stage 'fail'"]


class _Ends(Stored):
    """Fails from the second block of ids on."""

    def ids(self, epoch: int, positions: Int64Array) -> Int64Array:
        if len(positions) and positions.max() > 4096:
            raise ZeroDivisionError("no more ids")
        return positions


@pytest.mark.parametrize("read_threads", [1, 2])
@pytest.mark.parametrize("batch_size", [None, 512])
def test_an_error_of_the_plan_is_no_end(read_threads: int, batch_size: int | None) -> None:
    pipeline = replace(
        numbers(5000, sample_bytes=10),
        order=Order(sequence=_Ends(num_samples=5000)),
        read_threads=read_threads,
    )
    num_seen = 0
    with (
        pytest.raises(ZeroDivisionError, match="no more ids") as caught,
        (pipeline.batch(batch_size) if batch_size else pipeline).run() as run,
    ):
        for _ in run:
            num_seen += 1
    assert num_seen == (8 if batch_size else 4096)
    assert caught.value.__notes__ == ["in the plan of the run"]


@pytest.mark.parametrize("num_epochs", [2, None])
@pytest.mark.parametrize("in_order", [True, False])
@pytest.mark.parametrize(
    "change",
    [
        lambda pipeline: pipeline.batch(4, drop_last=True),
        lambda pipeline: pipeline.split(1, 4).batch(1),
    ],
)
def test_what_is_left_of_an_epoch_may_be_no_batch(
    change: Any, in_order: bool, num_epochs: int | None
) -> None:
    """2 of 10 samples are left, which neither fill a batch nor go round: the next epoch comes."""
    with numbers(10).batch(8).run() as run:
        next(run)
        state = run.state_dict()
    pipeline = change(numbers(10))
    with pipeline.run(num_epochs=num_epochs, in_order=in_order) as run:
        run.load_state_dict(state)
        assert run.epoch == 1
        num_batches = 2
        found = [next(run)["x"].tolist() for _ in range(num_batches)]
        assert num_epochs is None or next(run, None) is None
    assert sorted(found) == sorted(_numbers_of(pipeline))


def test_a_run_without_end_and_without_batches_is_refused() -> None:
    for pipeline in (numbers(0).batch(2), numbers(3).batch(4, drop_last=True), numbers(0)):
        with (
            pytest.raises(PipelineError, match="an epoch has no batch for this rank"),
            pipeline.run(num_epochs=None) as run,
        ):
            next(run)


def _mixed() -> Pipeline:
    """The same two samples again and again, among ten others."""
    names = ("few", "many")
    mixture = Mixture(
        names=names,
        parts=(Stored(num_samples=2), Stored(num_samples=10)),
        phases=phases_of(names, {0: {"few": 1, "many": 1}}),
    )
    return replace(numbers(12), order=Order(sequence=mixture))


@pytest.mark.parametrize("num_samples", [1, 2, 5, 13])
def test_a_sample_may_come_twice_in_a_chunk(num_samples: int, tmp_path: Path) -> None:
    with _mixed().run() as run:
        whole = [sample["x"] for sample in run]
    assert len(set(whole)) == 12 < len(whole)
    with _mixed().run(ledger=tmp_path) as run:
        head = [sample["x"] for sample in islice(run, num_samples)]
        state = run.state_dict()
    assert state["position"] == num_samples
    (ledger,) = tmp_path.iterdir()
    records = list(LedgerReader(ledger).records())
    assert [record.ids.tolist() for record in records] == [[x] for x in head]
    with _mixed().run() as run:
        run.load_state_dict(state)
        assert head + [sample["x"] for sample in run] == whole


@pytest.mark.parametrize("batched", [False, True])
def test_what_cannot_be_logged_is_not_handed_over(
    batched: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = numbers(12).batch(4) if batched else numbers(12)
    append = LedgerWriter.append

    def full(ledger: LedgerWriter, record: Any) -> None:
        if record.first >= 4:
            raise StorageError("the disk is full")
        append(ledger, record)

    monkeypatch.setattr(LedgerWriter, "append", full)
    with pipeline.run(ledger=tmp_path) as run:
        with pytest.raises(StorageError, match="the disk is full"):
            list(run)
        assert run.state_dict()["position"] == 4
        with pytest.raises(PipelineError, match="closed"):
            next(run)


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
