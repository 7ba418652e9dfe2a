"""The comparison of feeds in small, on the CPU: the same batches, the sums, the settings."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import iopipe
from iopipe.bench.feeds import FEEDS, MEAN, STD, Job, labels_of
from iopipe.bench.loader import prepare
from iopipe.bench.training import main, overheads, sweep
from iopipe.bench.training_tables import training_table
from iopipe.bench.windows import Window, first_cores, on_cpus

NUM_COLOURS = 12


@pytest.fixture(autouse=True)
def _torch_forks_beside_threads() -> Iterator[None]:
    with warnings.catch_warnings():
        # Python 3.12 warns of torch's forked workers wherever a thread is alive.
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each of one colour, by which its label is known."""
    folder = tmp_path_factory.mktemp("images")
    for number in range(NUM_COLOURS):
        pixels = np.full((70, 90, 3), 20 * number, np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02d}.jpg", quality=95)
    return folder


@pytest.fixture(scope="module")
def dataset(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dataset")
    prepare(images, folder, num_samples=48, num_shards=3)
    return folder


@pytest.mark.parametrize(
    ("feed", "settings"),
    [
        ("iopipe", {"workers": 0}),
        ("iopipe", {"workers": 1, "fidelity": "scaled"}),
        ("torch", {"workers": 0}),
        ("torch", {"workers": 1}),
        pytest.param("dali", {"threads": 2}, marks=pytest.mark.dali),
        pytest.param("dali", {"threads": 2, "form": "whole"}, marks=pytest.mark.dali),
    ],
)
def test_feeds_give_the_same_kind_of_batch_and_its_labels(
    dataset: Path, feed: str, settings: dict[str, Any]
) -> None:
    job = Job(dataset=dataset, device="cpu", batch_size=10, size=32, settings=settings)
    seen: set[int] = set()
    with FEEDS[feed](job) as batches:
        for pixels, labels in islice(batches, 10):  # goes beyond an epoch
            assert pixels.shape == (10, 3, 32, 32) and labels.shape == (10,)
            assert labels.dtype == torch.int64
            raw = pixels * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)
            colours = (raw * 255).mean(dim=(1, 2, 3)) / 20
            assert colours.round().long().tolist() == labels.tolist()
            seen |= set(labels.tolist())
    assert len(seen) == NUM_COLOURS


def test_synthetic_batches_differ() -> None:
    job = Job(dataset=Path("none"), device="cpu", batch_size=4, size=8)
    with FEEDS["synthetic"](job) as batches:
        first, second = islice(batches, 2)
    assert first[0].shape == (4, 3, 8, 8) and first[1].shape == (4,)
    assert not torch.equal(first[0], second[0])
    assert abs(float(first[0].mean())) < 1


def test_digits_become_labels() -> None:
    texts = [b"7\0\0", b"12\0", b"309", b"0\0\0"]
    digits = torch.tensor([list(text) for text in texts], dtype=torch.uint8)
    assert labels_of(digits).tolist() == [7, 12, 309, 0]


def test_feeds_are_compared(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = os.sched_getaffinity(0)
    options = (
        f"--images {images} --json {tmp_path / 'out.json'} --device cpu --model tiny --cores 1 "
        "--feeds synthetic,iopipe,torch --batch 4 --size 16 --samples 32 --shards 2 "
        "--seconds 0.05 --warmup 1 --rounds 2 --sweep iopipe.workers=0,1 --sweep torch.workers=0"
    )
    rows = main(options.split())
    assert os.sched_getaffinity(0) == before
    content = json.loads((tmp_path / "out.json").read_text())
    assert content["rows"] == [{"model": "tiny", "compiled": False, **row} for row in rows]
    assert "--sweep iopipe.workers=0,1" in content["command"]
    assert [row["name"] for row in rows] == ["synthetic", "iopipe", "torch"]
    synthetic, ours, torch_row = rows
    assert [row["cores"] for row in rows] == [1, 1, len(before)]
    assert [one["settings"] for one in ours["tried"]] == [{"workers": 0}, {"workers": 1}]
    best = max(ours["tried"], key=lambda one: one["images_per_second"])
    assert ours["settings"] == best["settings"]
    assert torch_row["settings"] == {"workers": 0} and not torch_row["tried"]
    for row in rows:
        assert len(row["runs"]) == 2
        assert all(run["steps"] >= 1 and 0 <= run["starved_fraction"] <= 1 for run in row["runs"])
    ratios = [
        1 - real["images_per_second"] / ideal["images_per_second"]
        for real, ideal in zip(ours["runs"], synthetic["runs"], strict=True)
    ]
    assert ours["input_overhead"]["min"] == pytest.approx(min(ratios))
    assert "input_overhead" not in synthetic
    table = training_table(content)
    median = ours["images_per_second"]["median"]
    assert f"| iopipe (workers {ours['settings']['workers']}) | 1 | {median:,.0f} (" in table
    assert f"{100 * ours['input_overhead']['median']:,.2f} (" in table
    assert "iopipe     input overhead" in capsys.readouterr().out


def test_one_that_fails_is_out_and_the_others_go_on(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(job: Job) -> Any:
        if job.settings["workers"] == 1:
            raise RuntimeError("no luck")
        return FEEDS["synthetic"](job)

    monkeypatch.setitem(FEEDS, "torch", broken)
    monkeypatch.setitem(FEEDS, "dali", broken)
    options = (
        f"--images {images} --json {tmp_path / 'out.json'} --device cpu --model tiny --cores 1 "
        "--feeds torch,dali,synthetic --batch 4 --size 16 --samples 8 --shards 1 --seconds 0.02 "
        "--warmup 1 --rounds 1 --torch-cores 1 --sweep torch.workers=1,2 --sweep dali.workers=1 "
        "--sweep dali.threads=1 --sweep dali.form=whole --sweep dali.load=1"
    )
    with pytest.raises(SystemExit, match="1"):
        main(options.split())
    one, other, synthetic = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert one["tried"][0]["error"] == "RuntimeError: no luck"
    assert one["settings"] == {"workers": 2} and len(one["runs"]) == 1
    assert other["error"] == "RuntimeError: no luck" and "runs" not in other
    assert len(synthetic["runs"]) == 1


def test_overheads_are_paired_by_round() -> None:
    def window(rate: float) -> Window:
        values = dict.fromkeys(Window.__dataclass_fields__, 0.0)
        return Window(**{**values, "images_per_second": rate})  # type: ignore[arg-type]

    real, ideal = [window(98), window(99)], [window(100), window(110), window(1)]
    assert overheads(real, ideal) == pytest.approx([0.02, 0.1])


def test_what_is_tried() -> None:
    assert sweep("synthetic", 4, {}) == [{}]
    assert [one["workers"] for one in sweep("torch", 16, {})] == [8, 14, 16]
    assert [one["workers"] for one in sweep("iopipe", 1, {})] == [1]
    engines = sweep("iopipe", 4, {"engine": ["cpu", "hybrid"]})
    assert engines == [
        {"workers": 3, "engine": "cpu"},
        {"engine": "hybrid"},
        {"workers": 4, "engine": "cpu"},
    ]
    given = sweep("dali", 4, {"load": [0.7, 1], "threads": [3], "form": ["whole"]})
    assert given == [{"threads": 3, "form": "whole", "load": load} for load in (0.7, 1)]
    assert len(sweep("dali", 4, {})) == 4


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--sweep", "iopipe.workers"], "FEED.NAME=VALUE"),
        (["--sweep", "nobody.workers=1"], "FEED.NAME=VALUE"),
        (["--cores", "1", "--feeds", "synthetic,nothing"], "feed 'nothing' is unknown"),
        (["--cores", "100000"], "100000 cores were asked for"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, options: list[str], words: str) -> None:
    paths = ["--images", str(tmp_path), "--json", str(tmp_path / "out.json")]
    with pytest.raises(iopipe.PipelineError, match=words):
        main([*paths, *options])


def test_whole_cores_come_first() -> None:
    limits = SimpleNamespace(cpus=(0, 1, 2, 4, 5, 6))  # 3 and 7 may not be used
    topology: Any = SimpleNamespace(cores=((0, 4), (1, 5), (2, 6), (3, 7)), limits=limits)
    assert first_cores(2, topology) == (0, 1)
    assert first_cores(4, topology) == (0, 1, 2, 4)
    assert first_cores(99, topology) == (0, 1, 2, 4, 5, 6)


def test_a_binding_ends_with_its_block() -> None:
    before = os.sched_getaffinity(0)
    one = max(before)
    with on_cpus([one]):
        assert os.sched_getaffinity(0) == {one}
    assert os.sched_getaffinity(0) == before
    with pytest.raises(iopipe.PipelineError, match="asked for CPUs"), on_cpus([4096]):
        raise AssertionError("not reached")
    assert os.sched_getaffinity(0) == before
