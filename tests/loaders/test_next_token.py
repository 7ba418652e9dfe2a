"""Inputs and labels: the host, a device that is sent windows, one that holds all tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes.link import FakeLink
from fakes.source import FakeToolkit

import iopipe
from iopipe.errors import PipelineError
from iopipe.pipeline import Pipeline

WINDOW = 9
NUM_TOKENS = 1000


@pytest.fixture
def tokens(tmp_path: Path) -> np.ndarray[Any, np.dtype[np.uint16]]:
    found = np.random.default_rng(3).integers(0, 2**16, NUM_TOKENS, np.uint16)
    found[:600].tofile(tmp_path / "a.bin")
    found[600:].tofile(tmp_path / "b.bin")
    return found


def _pipeline(folder: Path, link: FakeLink | None = None) -> Pipeline:
    options = iopipe.OpenOptions(window=WINDOW)
    source = iopipe.open_source(folder, options=options)
    base = iopipe.read(source).shuffle(7)
    if link is None:
        return base
    toolkit, store = FakeToolkit(link), iopipe.MappedStore()
    return Pipeline(source=source, toolkit=toolkit, order=base.order, store=store)


def _batches(pipeline: Pipeline, link: FakeLink | None, state: Any = None) -> list[dict[str, Any]]:
    seen = []
    with pipeline.run(num_epochs=2) as run:
        if state is not None:
            run.load_state_dict(state)
        for batch in run:
            if link is not None:
                link.finish()
            seen.append(
                {n: v.clone() if isinstance(v, torch.Tensor) else v for n, v in batch.items()}
            )
    return seen


def _same(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> bool:
    if len(one) != len(other) or any(a.keys() != b.keys() for a, b in zip(one, other, strict=True)):
        return False
    return all(
        torch.equal(a[name], b[name]) if isinstance(a[name], torch.Tensor) else a[name] == b[name]
        for a, b in zip(one, other, strict=True)
        for name in a
    )


def test_inputs_and_labels_are_the_windows_shifted(
    tmp_path: Path, tokens: np.ndarray[Any, np.dtype[np.uint16]]
) -> None:
    pipeline = _pipeline(tmp_path)
    starts = [*range(0, 600 - WINDOW + 1, WINDOW), *range(600, NUM_TOKENS - WINDOW + 1, WINDOW)]
    seen: list[int] = []
    for batch in _batches(pipeline.next_token().batch(4), None):
        assert batch["inputs"].dtype == batch["labels"].dtype == torch.int64
        for row, key in enumerate(batch["__key__"]):
            window = tokens[starts[int(key)] :][:WINDOW].astype(np.int64).tolist()
            assert batch["inputs"][row].tolist() == window[:-1]
            assert batch["labels"][row].tolist() == window[1:]
            seen.append(int(key))
    assert sorted(seen) == sorted(2 * list(range(len(starts))))


@pytest.mark.parametrize("end_token", [None, 5])
@pytest.mark.parametrize("is_resident", [False, True])
def test_a_device_makes_what_the_host_makes(
    tmp_path: Path,
    tokens: np.ndarray[Any, np.dtype[np.uint16]],
    is_resident: bool,
    end_token: int | None,
) -> None:
    link = FakeLink()
    expected = _batches(_pipeline(tmp_path).next_token(end_token=end_token).batch(4), None)
    there = _pipeline(tmp_path, link).next_token(end_token=end_token, resident=is_resident)
    assert _same(_batches(there.batch(4).to("fake"), link), expected)
    assert ("cu_seqlens" in expected[0]) == (end_token is not None)


def test_the_host_the_stream_and_the_pool_go_on_from_each_others_states(
    tmp_path: Path, tokens: np.ndarray[Any, np.dtype[np.uint16]]
) -> None:
    link = FakeLink()
    host = _pipeline(tmp_path).next_token().batch(4)
    expected = _batches(host, None)
    device = _pipeline(tmp_path, link)
    pipelines = [
        (host, None),
        (device.next_token().batch(4).to("fake"), link),
        (device.next_token(resident=True).batch(4).to("fake"), link),
    ]
    states = []
    for pipeline, _ in pipelines:
        with pipeline.run(num_epochs=2) as run:
            for _ in range(6):
                next(run)
            link.finish()
            states.append(run.state_dict())
    assert states[0] == states[1] == states[2]
    for pipeline, its_link in pipelines:
        assert _same(_batches(pipeline, its_link, states[0]), expected[6:])


def test_small_batches_come_in_one_copy(
    tmp_path: Path, tokens: np.ndarray[Any, np.dtype[np.uint16]]
) -> None:
    link = FakeLink()
    batches = _batches(_pipeline(tmp_path, link).batch(4).to("fake"), link)
    assert [len(batch["tokens"]) for batch in batches] == 2 * ([4] * 27 + [2])
    assert link.num_device_allocations <= 2
    alone = _pipeline(tmp_path).batch(4)
    with alone.run(num_epochs=2, in_order=False, window=1) as run:  # one at a time
        singly = [batch["tokens"].clone() for batch in run]
    assert all(torch.equal(a["tokens"], b) for a, b in zip(batches, singly, strict=True))


def test_windows_without_overlap_or_with(tmp_path: Path) -> None:
    tokens = np.arange(40, dtype=np.uint16)
    tokens.tofile(tmp_path / "t.bin")
    options = iopipe.OpenOptions(window=5, stride=4)
    source = iopipe.open_source(tmp_path / "t.bin", options=options)
    with iopipe.read(source).next_token().batch(100).run() as run:
        (batch,) = list(run)
    assert batch["inputs"].flatten().tolist() == list(range(36))
    assert batch["labels"].flatten().tolist() == list(range(1, 37))


def test_what_next_token_cannot_do(tmp_path: Path) -> None:
    np.arange(40, dtype=np.uint16).tofile(tmp_path / "t.bin")
    windows = iopipe.read(tmp_path / "t.bin", window=5)
    with pytest.raises(PipelineError, match="map cannot follow next_token"):
        windows.next_token().map(lambda sample: sample, name="map")
    with pytest.raises(PipelineError, match="windows of a token file"):
        windows.map(lambda sample: sample).next_token()
    with pytest.raises(PipelineError, match="for GPUs"):
        windows.next_token(resident=True).batch(2).run()
    with pytest.raises(PipelineError, match="2 tokens or more"):
        iopipe.read(tmp_path / "t.bin", window=1).next_token().batch(2).run()
