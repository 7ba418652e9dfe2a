"""Audits of runs whose order goes by lengths: packed sequences and buckets."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes.ledgers import rewrite

import iopipe
from iopipe import DataError, OpenOptions, Pipeline, Source, StateError
from iopipe.cli import main
from iopipe.ledger import Record
from iopipe.packing import packed_id

EOS = OpenOptions(eos_token=0)


def corpus_at(path: Path, *, seed: int = 3, num_documents: int = 90) -> Source:
    generator = random.Random(seed)
    tokens: list[int] = []
    for _ in range(num_documents):
        tokens += [7] * generator.choice([1, 3, 10, 40, 90]) + [0]
    np.array(tokens, np.uint16).tofile(path)
    return iopipe.open_source(str(path), options=EOS)


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return corpus_at(tmp_path / "corpus.bin")


def packed(source: Source) -> Pipeline:
    return iopipe.read(source).shuffle(5).pack(48, look_ahead=16)


def bucketed(source: Source) -> Pipeline:
    return iopipe.read(source).shuffle(5).bucket(12, window=36).batch(3, pad={"tokens": 0})


KINDS: dict[str, Callable[[Source], Pipeline]] = {"packed": packed, "bucketed": bucketed}


def at(pipeline: Pipeline, batch_size: int, **options: Any) -> Pipeline:
    return pipeline if pipeline.batch_size is not None else pipeline.batch(batch_size, **options)


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("tail", ["drop", "wrap", "pad"])
@pytest.mark.parametrize("seed", range(3))
def test_crashes_and_restarts(
    source: Source, tmp_path: Path, kind: str, tail: Any, seed: int
) -> None:
    """Some steps with one world, then on with others from saved states that lie before the
    crash, to the end of a second epoch."""
    generator = random.Random(seed)
    pipeline = KINDS[kind](source)
    state, ledgers = None, tmp_path / "ledgers"
    for num_steps in (generator.randint(1, 6), generator.randint(1, 6), None):
        world, size = generator.randint(1, 4), generator.randint(1, 4)
        saved_after = generator.randint(0, num_steps or 0)
        for rank in range(world):
            shared = at(pipeline.split(rank, world, tail=tail), size)
            with shared.run(num_epochs=2, ledger=ledgers) as run:
                if state is not None:
                    run.load_state_dict(state)
                step, own = 0, run.state_dict()
                for step, _ in enumerate(run, 1):
                    if step == saved_after:
                        own = run.state_dict()
                    if step == num_steps:
                        break
        state = own
    report = iopipe.audit_ledgers([ledgers], source=source)
    assert report.is_exact, report
    assert [epoch.epoch for epoch in report.epochs] == [0, 1]
    assert report.epochs[1].is_finished
    if tail == "pad" and kind == "bucketed":
        assert report.epochs[1].num_delivered == len(source)


def plain_run(source: Source, folder: Path, kind: str) -> list[Path]:
    for rank in range(2):
        with at(KINDS[kind](source).split(rank, 2), 3).run(num_epochs=2, ledger=folder) as run:
            assert len(list(run)) > 6
    return sorted(folder.iterdir(), key=lambda path: path.name.split("-rank")[1])


@pytest.mark.parametrize("kind", list(KINDS))
def test_what_is_lost_or_double_is_named(source: Source, tmp_path: Path, kind: str) -> None:
    first, second = plain_run(source, tmp_path / "ledgers", kind)
    rewrite(first, lambda records: records[:1] + records[2:])
    rewrite(second, lambda records: [*records[:2], *records[1:]])
    epoch, _ = iopipe.audit_ledgers([tmp_path / "ledgers"], source=source).epochs
    assert len(epoch.missing) == len(epoch.double) == 3
    if kind == "packed":  # turns go round among the ranks: 0, 2, 4 to the first one, and so on
        assert epoch.missing.tolist() == [6, 8, 10] and epoch.double.tolist() == [7, 9, 11]


def test_sequences_are_counted_through_the_epoch(source: Source, tmp_path: Path) -> None:
    """As a plain count of the packed batches has it."""
    with packed(source).batch(2).run(ledger=tmp_path) as run:
        num_sequences = sum(len(batch["tokens"]) for batch in run)
    (epoch,) = iopipe.audit_ledgers([tmp_path], source=source).epochs
    assert (epoch.num_delivered, epoch.num_dropped) == (num_sequences, 0)


@pytest.mark.parametrize("bad", [packed_id(0, 99, 0), packed_id(0, 0, 500), packed_id(1, 0, 0)])
def test_sequences_that_do_not_exist_are_told(source: Source, tmp_path: Path, bad: int) -> None:
    first, _ = plain_run(source, tmp_path / "ledgers", "packed")

    def change(records: list[Record]) -> list[Record]:
        records[0].ids[0] = bad
        return records

    rewrite(first, change)
    with pytest.raises(DataError, match="a ledger names"):
        iopipe.audit_ledgers([tmp_path / "ledgers"], source=source)


@pytest.mark.parametrize("kind", list(KINDS))
def test_the_dataset_is_asked_for(
    source: Source, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    plain_run(source, tmp_path / "ledgers", kind)
    with pytest.raises(StateError, match="--data DATASET"):
        iopipe.audit_ledgers([tmp_path / "ledgers"])
    other = corpus_at(tmp_path / "other.bin", num_documents=91)
    with pytest.raises(StateError, match="the ledgers belong to the dataset"):
        iopipe.audit_ledgers([tmp_path / "ledgers"], source=other)
    assert main(["audit", str(tmp_path / "ledgers")]) != 0
    assert "--data DATASET" in capsys.readouterr().err
