"""Mixed pipelines deliver each source's own samples in the shares that were asked for."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import iopipe
from iopipe import DatasetWriter, Pipeline, PipelineError, StateError
from iopipe.audit import audit_ledgers


def write(folder: Path, name: str, num_samples: int) -> Pipeline:
    with DatasetWriter(folder / name) as writer:
        for number in range(num_samples):
            payload = f"{name} {number}".encode() * (1 + number % 3)
            writer.write({"__key__": f"{name}-{number:04d}", "txt": payload, "cls": b"%d" % number})
    return iopipe.read(folder / name)


@pytest.fixture
def pair(tmp_path: Path) -> dict[str, Pipeline]:
    return {"web": write(tmp_path, "web", 60).shuffle(1), "books": write(tmp_path, "books", 25)}


WEIGHTS = {"web": 0.75, "books": 0.25}


def test_samples_are_those_of_their_sources(pair: dict[str, Pipeline]) -> None:
    plain = {
        sample["__key__"]: sample
        for pipeline in pair.values()
        for sample in pipeline.decode().run()
    }
    seen = []
    with iopipe.mix(pair, weights=WEIGHTS).decode().batch(8).run() as run:
        for batch in run:
            for row, key in enumerate(batch["__key__"]):
                assert batch["txt"][row] == plain[key]["txt"]
                assert int(batch["cls"][row]) == plain[key]["cls"]
                assert ["web", "books"][int(batch["__source__"][row])] == key.split("-")[0]
                seen.append(key)
    assert set(seen) == set(plain)
    assert len([key for key in seen if key.startswith("web")]) / len(seen) == pytest.approx(
        0.75, abs=0.08
    )


@pytest.mark.parametrize("worlds", [(1, 1), (2, 3), (4, 1)])
def test_a_mixture_is_continued_by_any_number_of_ranks(
    pair: dict[str, Pipeline], worlds: tuple[int, int]
) -> None:
    mixed = iopipe.mix(pair, weights=WEIGHTS, seed=5)
    with mixed.run() as run:
        expected = [sample["__key__"] for sample in run]
    seen, states = [], []
    for rank in range(worlds[0]):
        with mixed.split(rank, worlds[0]).batch(3).run() as run:
            seen += [key for _ in range(4) for key in next(run)["__key__"]]
            states.append(json.loads(json.dumps(run.state_dict())))
    assert all(state == states[0] for state in states)
    taken = sum(place["position"] for place in states[0]["sources"].values())
    assert taken == len(seen) == states[0]["position"]
    for rank in range(worlds[1]):
        with mixed.split(rank, worlds[1], tail="pad").batch(4).run() as run:
            run.load_state_dict(states[0])
            for batch in run:
                valid = zip(batch["__key__"], batch["__valid__"].tolist(), strict=True)
                seen += [key for key, counts in valid if counts]
    assert sorted(seen) == sorted(expected)


def test_a_state_of_other_weights_is_refused(pair: dict[str, Pipeline]) -> None:
    with iopipe.mix(pair, weights=WEIGHTS).batch(3).run() as run:
        next(run)
        state = run.state_dict()
    other = iopipe.mix(pair, weights={"web": 0.5, "books": 0.5}).batch(3).run()
    with pytest.raises(StateError, match="weights is"):
        other.load_state_dict(state)


def test_a_damaged_sample_is_named_as_its_source_names_it(
    pair: dict[str, Pipeline], tmp_path: Path
) -> None:
    def broken(sample: dict[str, Any]) -> dict[str, Any]:
        if sample["__key__"] == "books-0007":
            raise iopipe.DataError("it is torn")
        return sample

    with (
        pytest.raises(iopipe.DataError, match=r"books.*books-0007"),
        iopipe.mix(pair, weights=WEIGHTS).map(broken).run() as run,
    ):
        list(run)


def test_tokens_are_mixed_by_their_number(tmp_path: Path) -> None:
    pipelines = {}
    for name, window in (("long", 32), ("short", 8)):
        path = tmp_path / f"{name}.bin"
        np.arange(64 * window, dtype=np.uint16).tofile(path)
        options = iopipe.OpenOptions(window=window)
        pipelines[name] = iopipe.read(iopipe.open_source(str(path), options=options))
    equal = {"long": 0.5, "short": 0.5}
    mixed = iopipe.mix(pipelines, weights=equal, by="token", stop="repeat", epoch_samples=512)
    with mixed.run() as run:
        lengths = [len(sample["tokens"]) for sample in run]
    assert sum(n for n in lengths if n == 32) == pytest.approx(sum(lengths) / 2, rel=0.05)


def test_sources_in_several_places_are_read_from_their_own_stores(tmp_path: Path) -> None:
    local = write(tmp_path, "local", 10)
    memory = iopipe.MemoryStore()
    for path in sorted((tmp_path / "local").glob("*.tar")):
        memory.write(f"memory://far/{path.name}", path.read_bytes())
    far = iopipe.read("memory://far/*.tar", store=memory)
    with pytest.raises(PipelineError, match=r"\['near'\] were given no store"):
        iopipe.mix({"near": local, "far": far}, weights={"near": 1, "far": 1})
    with contextlib.closing(iopipe.PosixStore()) as disk:
        near = iopipe.read(tmp_path / "local", store=disk)
        mixed = iopipe.mix({"near": near, "far": far}, weights={"near": 1, "far": 1})
        with mixed.run() as run:
            samples = list(run)
    assert {sample["__source__"] for sample in samples} == {0, 1}
    assert len({sample["__key__"] for sample in samples}) == 10


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda web: web.decode(), "pipeline 'web' has stages already"),
        (lambda web: web.split(0, 2), "pipeline 'web' is split already"),
    ],
)
def test_what_comes_after_the_mixture(pair: dict[str, Pipeline], change: Any, said: str) -> None:
    with pytest.raises(PipelineError, match=said):
        iopipe.mix({**pair, "web": change(pair["web"])}, weights=WEIGHTS)


def test_sources_have_the_same_columns(pair: dict[str, Pipeline], tmp_path: Path) -> None:
    other = iopipe.read(tmp_path / "web", columns=["txt"])
    with pytest.raises(PipelineError, match="source 'books' has columns"):
        iopipe.mix({"web": other, "books": pair["books"]}, weights=WEIGHTS)


def test_samples_without_lengths_are_not_mixed_by_token(pair: dict[str, Pipeline]) -> None:
    with pytest.raises(PipelineError, match="does not say how long its samples are"):
        iopipe.mix(pair, weights=WEIGHTS, by="token")


@pytest.fixture
def corpora(tmp_path: Path) -> dict[str, Pipeline]:
    """Documents of one token each, again and again: 1000 + d in 'web', 5000 + d in 'books'."""
    draws = np.random.default_rng(0)
    for name, first, num_documents in (("web", 1000, 200), ("books", 5000, 80)):
        lengths = draws.integers(1, 30, num_documents)
        parts = [[first + d] * int(length) + [0] for d, length in enumerate(lengths)]
        np.concatenate(parts).astype(np.uint16).tofile(tmp_path / f"{name}.bin")
    options = iopipe.OpenOptions(eos_token=0)
    return {
        name: iopipe.read(iopipe.open_source(tmp_path / f"{name}.bin", options=options)).shuffle(1)
        for name in ("web", "books")
    }


@pytest.mark.parametrize("method", ["best_fit", "concat"])
def test_a_mixture_of_documents_is_packed(
    corpora: dict[str, Pipeline], method: Any, tmp_path: Path
) -> None:
    """Every document as often as the mixture has it, with all of its tokens."""
    mixed = iopipe.mix(corpora, weights=WEIGHTS)
    with mixed.run() as run:
        documents = [sample["tokens"] for sample in run]
    assert len(documents) > 280  # 'books' ends later: 'web' begins again
    packed = mixed.pack(64, method=method, look_ahead=32).batch(4)
    with packed.run(ledger=tmp_path / "ledgers") as run:
        batches = [batch["tokens"] for batch in run]
    report = audit_ledgers([tmp_path / "ledgers"], source=mixed.source)
    assert not report.problems and [epoch.is_finished for epoch in report.epochs] == [True]
    found = torch.cat(batches).flatten()
    expected = np.sort(np.concatenate([np.frombuffer(one, np.uint16) for one in documents]))
    num_padding = found.numel() - len(expected)
    assert np.array_equal(np.sort(found.numpy())[num_padding:], expected)


@pytest.mark.parametrize("worlds", [(1, 3), (2, 1)])
def test_a_packed_mixture_goes_on_anywhere(
    corpora: dict[str, Pipeline], worlds: tuple[int, int]
) -> None:
    mixed = iopipe.mix(corpora, weights=WEIGHTS)
    packed = mixed.pack(64, look_ahead=32)
    with packed.run() as run:
        expected = sorted(sample["tokens"].tobytes() for sample in run)
    seen, states = [], []
    for rank in range(worlds[0]):
        with packed.split(rank, worlds[0], tail="wrap").run() as run:
            seen += [next(run)["tokens"].tobytes() for _ in range(24 // worlds[0])]
            states.append(json.loads(json.dumps(run.state_dict())))
    assert states.count(states[0]) == worlds[0]
    for rank in range(worlds[1]):
        with packed.split(rank, worlds[1], tail="wrap").run() as run:
            run.load_state_dict(states[0])
            seen += [sample["tokens"].tobytes() for sample in run]
    assert set(seen) == set(expected)
    assert len(expected) <= len(seen) < len(expected) + worlds[1]
    group = states[0]["position"] >> 32
    with mixed.run() as run:
        for _ in range(group * 32):
            next(run)
        assert group and states[0]["sources"] == run.state_dict()["sources"]


def test_documents_of_a_mixture_come_by_length(corpora: dict[str, Pipeline]) -> None:
    mixed = iopipe.mix(corpora, weights=WEIGHTS).bucket(64).batch(8, pad={"tokens": 0})
    with mixed.run() as run:
        lengths = [batch["tokens_lengths"] for batch in run]
    plain = iopipe.mix(corpora, weights=WEIGHTS).batch(8, pad={"tokens": 0})
    with plain.run() as run:
        unsorted = [batch["tokens_lengths"] for batch in run]
    spread = [sum(int(one.max() - one.min()) for one in ways) for ways in (lengths, unsorted)]
    assert sorted(torch.cat(lengths).tolist()) == sorted(torch.cat(unsorted).tolist())
    assert spread[0] < spread[1] / 2


def test_packed_pipelines_are_not_mixed(tmp_path: Path) -> None:
    """The first one's groups would be all that comes."""
    path = tmp_path / "tokens.bin"
    np.tile(np.arange(8, dtype=np.uint16), 20).tofile(path)
    documents = iopipe.open_source(path, options=iopipe.OpenOptions(eos_token=0))
    packed = iopipe.read(documents).pack(64)
    with pytest.raises(PipelineError, match="'one' is packed"):
        iopipe.mix({"one": packed, "two": packed}, weights={"one": 1, "two": 1})
    labels = iopipe.read(path, window=9).next_token()
    with pytest.raises(PipelineError, match="leave next_token out"):
        iopipe.mix({"one": labels}, weights={"one": 1})


def test_settings_of_one_pipeline_alone_are_not_dropped(pair: dict[str, Pipeline]) -> None:
    with pytest.raises(PipelineError, match=r"num_workers \{'web': 0, 'books': 2\}"):
        iopipe.mix({**pair, "books": pair["books"].workers(2)}, weights=WEIGHTS)
    lenient = iopipe.read(pair["books"].source, on_error="skip")
    with pytest.raises(PipelineError, match="on_error"):
        iopipe.mix({**pair, "books": lenient}, weights=WEIGHTS)
    both = {name: pipeline.workers(1) for name, pipeline in pair.items()}
    assert iopipe.mix(both, weights=WEIGHTS).num_workers == 1
