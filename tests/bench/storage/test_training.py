"""Emulated accelerators on a small dataset: what they read, when they wait, what they report."""

from __future__ import annotations

import argparse
import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from iopipe.bench.storage import emulation
from iopipe.bench.storage.accelerator import GpuAccelerator, SleepingAccelerator
from iopipe.bench.storage.dataset import dataset_of
from iopipe.bench.storage.training import batches, train
from iopipe.bench.storage.workloads import Workload, workload_of
from iopipe.errors import MissingDependency, PipelineError, StorageError
from iopipe.protocols import ByteRange
from iopipe.storage import PosixStore


def _workload(**changes: Any) -> Workload:
    values: dict[str, Any] = {
        "name": "images", "accelerator": "h100", "batch_size": 3, "compute_seconds": 0.0,
        "sample_bytes": 1000, "read_threads": 2, "samples_per_file": 10, "mark": 0.5,
    }  # fmt: skip
    return Workload(**{**values, **changes})


class _Noting(SleepingAccelerator):
    """Keeps the numbers that the samples begin with."""

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.lock = threading.Lock()

    def deliver(self, sample: memoryview) -> None:
        with self.lock:
            self.seen.append(int.from_bytes(sample[:8], "little"))


def _samples(folder: Path, count: int) -> list[ByteRange]:
    path = folder / "a"
    path.write_bytes(b"".join(n.to_bytes(8, "little") + bytes(92) for n in range(count)))
    return [ByteRange(str(path), 100 * n, 100) for n in range(count)]


def test_each_accelerator_gets_the_samples_of_its_plan(tmp_path: Path) -> None:
    accelerators = [_Noting(), _Noting()]
    epochs = train(
        PosixStore(), _samples(tmp_path, 40), _workload(), accelerators, num_steps=5, seed=3
    )
    plans = batches(40, 3, 2, 5, seed=3)
    for epoch, accelerator, plan in zip(epochs, accelerators, plans, strict=True):
        assert sorted(accelerator.seen) == sorted(index for batch in plan for index in batch)
        assert len(epoch.compute) == len(epoch.load) == 5
        assert epoch.end - epoch.start >= sum(epoch.compute) + sum(epoch.load)
        assert 0 < epoch.utilisation() <= 1


def test_a_lost_sample_ends_all_accelerators(tmp_path: Path) -> None:
    samples = _samples(tmp_path, 40)
    os.truncate(samples[0].path, 2000)
    before = threading.active_count()
    with pytest.raises(StorageError, match="changed while it was read"):
        train(PosixStore(), samples, _workload(), [_Noting(), _Noting()], num_steps=5, seed=3)
    assert threading.active_count() == before


@pytest.mark.parametrize(("per_file", "num_files"), [(1, 20), (10, 2)])
def test_a_dataset_has_files_as_the_workload_has(
    tmp_path: Path, per_file: int, num_files: int
) -> None:
    workload = _workload(samples_per_file=per_file)
    with dataset_of(str(tmp_path), workload, size_bytes=20_000) as dataset:
        assert len(dataset.target.files) == num_files
        assert [sample.length for sample in dataset.samples] == [1000] * 20
        assert dataset.num_bytes == sum(os.path.getsize(p) for p in dataset.target.paths)
        assert "smaller than 5 times the memory" in str(dataset.warning())
    assert list(tmp_path.iterdir()) == []


def test_existing_files_are_cut_into_samples(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(2500))
    with dataset_of(str(tmp_path / "a"), _workload(), size_bytes=0) as dataset:
        assert [(one.offset, one.length) for one in dataset.samples] == [(0, 1000), (1000, 1000)]
    (tmp_path / "a").write_bytes(bytes(25))
    with (
        pytest.raises(PipelineError, match="not one sample"),
        dataset_of(str(tmp_path / "a"), _workload(), size_bytes=0),
    ):
        pass


def _options(folder: Path, **changes: Any) -> argparse.Namespace:
    values: dict[str, Any] = {
        "workload": "images", "accelerator": "h100", "target": [str(folder)], "backends": None,
        "to_gpu": False, "size": 100_000, "seconds": 0.01, "budget": 60.0,
        "num_accelerators": None, "json": folder / "r.json",
    }  # fmt: skip
    return argparse.Namespace(**{**values, **changes})


def _run(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *, limit: int, **changes: Any
) -> tuple[int, dict[str, Any]]:
    """With utilisations that are given: what is measured of them is tested elsewhere."""
    monkeypatch.setattr(emulation, "workload_of", lambda *_: _workload(compute_seconds=0.001))

    def mean(ranks: list[Any]) -> tuple[float, float]:
        return (0.9 if len(ranks) <= limit else 0.3), 0.0

    monkeypatch.setattr(emulation, "mean_utilisation", mean)
    options = _options(folder, **changes)
    code = emulation.run_workload(options, Console(width=200))
    return code, json.loads(options.json.read_text())


def test_the_largest_number_that_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, content = _run(tmp_path, monkeypatch, limit=3)
    assert (code, content["largest_passing"]) == (0, 3)
    assert [row["num_accelerators"] for row in content["rows"]] == [1, 2, 3, 4]
    assert [row["train_au_meet_expectation"] for row in content["rows"]] == ["success"] * 3 + [
        "fail"
    ]
    assert content["mlperf_compliant"] is False
    assert {row["metric"] for row in content["rows"]} == {"AU (DLIO definition)"}
    shown = capsys.readouterr().out
    assert "3 x images on h100" in shown and "AU (DLIO definition) >= 50%" in shown
    assert "smaller than 5 times the memory" in shown
    assert "MLPerf result" not in shown
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]


def test_a_given_number_is_measured_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, content = _run(tmp_path, monkeypatch, limit=1, num_accelerators=2)
    assert (code, content["largest_passing"]) == (1, 0)
    assert [row["num_accelerators"] for row in content["rows"]] == [2]


def test_without_a_gpu_au_to_gpu_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MissingDependency, match="no CUDA device"):
        emulation.run_workload(_options(tmp_path, to_gpu=True), Console())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.gpu
def test_samples_and_products_on_a_gpu(tmp_path: Path) -> None:
    import torch

    accelerator = GpuAccelerator()
    room = accelerator.scratch(1000)
    room[:5] = b"hello"
    accelerator.deliver(room[:5])
    ((_, device, _),) = accelerator._device.values()
    assert bytes(device[:5].cpu().numpy()) == b"hello"
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    accelerator.compute(0.05)
    end.record()
    end.synchronize()
    assert 25 < start.elapsed_time(end) < 100
    workload = workload_of("images", "h100")
    with dataset_of(str(tmp_path), workload, size_bytes=50_000_000) as dataset:
        (epoch,) = train(
            PosixStore(), dataset.samples, workload, [accelerator], num_steps=3, seed=0
        )
    assert 0 < epoch.utilisation() <= 1
