"""Buckets: a bijection that keeps windows, and little padding for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import iopipe
from iopipe import OpenOptions, Pipeline, PipelineError
from iopipe.order import FullShuffle
from iopipe.order.bucketing import Bucketed


def bucketed(num: int, samples: int, window: int, seed: int = 1) -> Bucketed:
    lengths = np.random.default_rng(7).integers(1, 500, max(num, 1))
    inner = FullShuffle(num_samples=num, seed=seed)
    return Bucketed(inner=inner, lengths=lambda ids: lengths[ids], samples=samples, window=window)


@given(
    num=st.integers(0, 300),
    samples=st.integers(1, 20),
    runs=st.integers(1, 8),
    extra=st.integers(0, 19),
    epoch=st.integers(0, 3),
)
def test_each_window_keeps_its_samples(
    num: int, samples: int, runs: int, extra: int, epoch: int
) -> None:
    window = samples * runs + extra
    sequence = bucketed(num, samples, window)
    positions = np.arange(num)
    found, below = sequence.ids(epoch, positions), sequence.inner.ids(epoch, positions)
    for first in range(0, num, window):
        here = slice(first, first + window)
        assert sorted(found[here]) == sorted(below[here])
        lengths = sequence.lengths(found[here])
        ranks = np.sort(lengths)
        for start in range(0, len(lengths) - samples + 1, samples):
            run = lengths[start : start + samples]
            # A run is a stretch of the sorted window.
            assert (run == np.sort(run)).all()
            place = np.searchsorted(ranks, run[0])
            assert run[-1] <= ranks[min(place + 2 * samples, len(ranks) - 1)] or run[0] == run[-1]


@given(picks=st.lists(st.integers(0, 199), max_size=30))
def test_any_positions_agree_with_the_whole(picks: list[int]) -> None:
    whole = bucketed(200, 8, 64).ids(2, np.arange(200))
    assert bucketed(200, 8, 64).ids(2, np.array(picks, np.int64)).tolist() == [
        whole[at] for at in picks
    ]


def test_runs_come_in_a_random_order() -> None:
    sequence = bucketed(6400, 10, 640)
    firsts = sequence.lengths(sequence.ids(0, np.arange(0, 6400, 10)))
    assert abs(np.corrcoef(np.arange(64), firsts.reshape(10, 64).mean(axis=0))[0, 1]) < 0.5
    assert (sequence.ids(0, np.arange(640)) != sequence.ids(1, np.arange(640))).mean() > 0.9


@pytest.mark.parametrize("options", [{"samples": 0, "window": 5}, {"samples": 6, "window": 5}])
def test_illegal_buckets(options: dict[str, Any]) -> None:
    with pytest.raises(PipelineError, match="a window that holds at least one run"):
        Bucketed(inner=FullShuffle(num_samples=5), lengths=lambda ids: ids, **options)


@pytest.fixture
def corpus(tmp_path: Path) -> Pipeline:
    """Documents of 1 to 200 tokens, ended by 0; document n begins with n + 1."""
    generator = np.random.default_rng(2)
    parts = [np.r_[number + 1, np.full(generator.integers(0, 200), 5), 0] for number in range(400)]
    path = tmp_path / "corpus.bin"
    np.concatenate(parts).astype(np.uint16).tofile(path)
    return iopipe.read(iopipe.open_source(str(path), options=OpenOptions(eos_token=0)))


def share_of_padding(pipeline: Pipeline) -> float:
    places = tokens = 0
    with pipeline.run() as run:
        for batch in run:
            places += batch["tokens"].numel()
            tokens += int(batch["tokens_lengths"].sum())
    return 1 - tokens / places


def test_padded_batches_hold_each_row_and_its_length(corpus: Pipeline) -> None:
    plain = {
        sample["__key__"]: np.frombuffer(sample["tokens"], np.uint16) for sample in corpus.run()
    }
    num_rows = 0
    with corpus.shuffle(3).batch(16, pad={"tokens": 9}).run() as run:
        for batch in run:
            tokens, lengths = batch["tokens"], batch["tokens_lengths"]
            assert tokens.dtype == torch.uint16 and lengths.dtype == torch.int64
            assert tokens.shape == (len(batch["__key__"]), int(lengths.max()))
            for row, (key, length) in enumerate(
                zip(batch["__key__"], lengths.tolist(), strict=True)
            ):
                assert tokens[row, :length].tolist() == plain[key].tolist()
                assert (tokens[row, length:].to(torch.int64) == 9).all()
                num_rows += 1
    assert num_rows == len(plain) == 400


def test_buckets_save_padding_and_lose_nothing(corpus: Pipeline) -> None:
    shuffled = corpus.shuffle(3)
    before = share_of_padding(shuffled.batch(16, pad={"tokens": 0}))
    bucketed = shuffled.bucket(16, window=160)
    after = share_of_padding(bucketed.batch(16, pad={"tokens": 0}))
    assert before > 0.4 and after < 0.15
    assert "runs of 16 samples of like length within windows of 160" in bucketed.describe()
    seen, states = [], []
    for rank in range(2):
        with bucketed.split(rank, 2).batch(8, pad={"tokens": 0}).run() as run:
            seen += [key for _ in range(5) for key in next(run)["__key__"]]
            states.append(json.loads(json.dumps(run.state_dict())))
    assert states[0] == states[1] and states[0]["bucket"] == {"samples": 16, "window": 160}
    with bucketed.batch(50, pad={"tokens": 0}).run() as run:
        run.load_state_dict(states[0])
        seen += [key for batch in run for key in batch["__key__"]]
    assert sorted(seen, key=int) == [str(number) for number in range(400)]


def test_what_cannot_be_padded_or_bucketed(corpus: Pipeline, tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"columns \['words'\] are to be padded"):
        next(corpus.batch(4, pad={"words": 0}).run())
    texts = corpus.map(lambda sample: {"tokens": "text"})
    with pytest.raises(PipelineError, match="rows of numbers can be padded"):
        next(texts.batch(4, pad={"tokens": 0}).run())
    with pytest.raises(PipelineError, match="call it once"):
        corpus.bucket(4).bucket(4)
    with iopipe.DatasetWriter(tmp_path / "other") as writer:
        writer.write({"__key__": "a", "txt": b"x"})
    with pytest.raises(PipelineError, match="does not say how long"):
        iopipe.read(tmp_path / "other").bucket(4)
