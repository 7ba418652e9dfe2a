"""Runs that read ahead deliver what runs without it deliver."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import iopipe
from iopipe import Pipeline, PipelineError


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    with iopipe.DatasetWriter(tmp_path / "set", max_samples=40) as writer:
        for number in range(150):
            writer.write({"__key__": f"{number:04d}", "txt": b"%d " % number * (number % 17 + 1)})
    return tmp_path / "set"


def orders(pipeline: Pipeline) -> list[Pipeline]:
    return [
        pipeline,
        pipeline.shuffle(3),
        pipeline.shuffle(3, mode="block", block_samples=10, window_blocks=3, lanes=2),
        pipeline.shuffle(3).split(1, 3, tail="pad"),
    ]


def delivered(pipeline: Pipeline, **options: Any) -> list[Any]:
    with pipeline.batch(8).run(num_epochs=2, **options) as run:
        return [(batch["__key__"], batch["txt"]) for batch in run]


@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("num_bytes", [1000, 20_000, 10_000_000])
def test_batches_are_the_same(dataset: Path, number: int, num_bytes: int) -> None:
    pipeline = orders(iopipe.read(dataset))[number]
    assert delivered(pipeline.read_ahead(num_bytes)) == delivered(pipeline)


def test_a_resumed_run_reads_ahead_from_its_place(dataset: Path) -> None:
    pipeline = iopipe.read(dataset).shuffle(1, mode="block", block_samples=10).batch(8)
    with pipeline.read_ahead(5000).run() as run:
        first = [next(run)["__key__"] for _ in range(5)]
        state = run.state_dict()
    with pipeline.read_ahead(5000).run() as run:
        run.load_state_dict(state)
        rest = [batch["__key__"] for batch in run]
    with pipeline.run() as run:
        assert first + rest == [batch["__key__"] for batch in run]
    assert not [one for one in threading.enumerate() if one.name == "iopipe-read-ahead"]


def test_damage_is_told_as_without_it(dataset: Path) -> None:
    shard = next(iter(sorted(dataset.glob("*.tar"))))
    iopipe.read(dataset)  # indexed while it is whole
    content = shard.read_bytes()
    pipeline = iopipe.read(dataset, on_error="skip").shuffle(2)
    shard.write_bytes(content[: len(content) // 2])

    def found(pipeline: Pipeline) -> tuple[list[Any], int]:
        with pipeline.batch(8).run() as run:
            keys = [batch["__key__"] for batch in run]
            return keys, run.report().errors.num_skipped

    assert found(pipeline.read_ahead(20_000)) == found(pipeline)
    assert found(pipeline)[1] > 0


def test_where_it_is_used(dataset: Path) -> None:
    pipeline = iopipe.read(dataset)
    assert "ahead" not in pipeline.describe().split("\n")[2]
    assert ", 2 MiB ahead" in pipeline.read_ahead(2 << 20).describe()
    source = SimpleNamespace(shards=("/data/a.tar", "s3://bucket/b.tar"))
    assert pipeline.toolkit.default_read_ahead(source) == 256 << 20  # type: ignore[arg-type]
    with pytest.raises(PipelineError, match="0 or more"):
        pipeline.read_ahead(-1)
