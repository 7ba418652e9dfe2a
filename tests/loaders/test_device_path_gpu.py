"""The way to a real device: nothing is allocated on it, and what comes is what the host has."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

import iopipe
from iopipe.loaders.cuda import CudaLink
from iopipe.loaders.shared import private_slot

pytestmark = pytest.mark.gpu

WINDOW = 1025
FORBIDDEN = (
    "cudaMalloc",
    "cudaMallocHost",
    "cudaMallocAsync",
    "cudaHostAlloc",
    "cudaHostRegister",
    "cudaHostUnregister",
    "cudaFree",
    "cudaFreeHost",
    "cudaStreamSynchronize",
    "cudaDeviceSynchronize",
    "cudaMemcpy",
)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    tokens = np.random.default_rng(0).integers(0, 2**16, 4_000_000, np.uint16)
    tokens.tofile(tmp_path / "t.bin")
    return tmp_path / "t.bin"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    generator = np.random.default_rng(1)
    values = pa.array(generator.standard_normal(40_000 * 8, np.float32))
    batch = pa.record_batch(
        {
            "x": pa.FixedSizeListArray.from_arrays(values, 8),
            "y": pa.array(generator.integers(0, 9, 40_000)),
        }
    )
    with pa.ipc.new_file(tmp_path / "t.arrow", batch.schema) as writer:
        for start in range(0, 40_000, 7_000):
            writer.write_batch(batch.slice(start, 7_000))
    return tmp_path / "t.arrow"


def _calls(work: Callable[[], Any]) -> Counter[str]:
    """Of the CUDA runtime, in all threads of this process."""
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the profiler about itself
        with torch.profiler.profile(activities=activities) as profile:
            work()
    return Counter({one.key: one.count for one in profile.key_averages() if one.key in FORBIDDEN})


@pytest.mark.parametrize("kind", ["slots", "shared slots", "next token", "resident"])
def test_nothing_is_allocated_or_waited_for_in_steady_state(corpus: Path, kind: str) -> None:
    pipeline = iopipe.read(corpus, window=WINDOW).shuffle(0)
    if kind in ("next token", "resident"):
        pipeline = pipeline.next_token(resident=kind == "resident")
    if kind == "shared slots":
        pipeline = pipeline.workers(1)
    with pipeline.batch(16, drop_last=True).to("cuda").run(num_epochs=None) as run:
        total = torch.zeros((), dtype=torch.int64, device="cuda")

        def steps(num: int) -> None:
            for _ in range(num):
                for value in next(run).values():
                    if isinstance(value, torch.Tensor):
                        total.add_(value.flatten()[0].to(torch.int64))

        steps(400)  # some epochs, so that every slot has been as large as it gets
        before = torch.cuda.memory_stats()["num_device_alloc"]
        profiled = _calls(lambda: steps(200))
        assert torch.cuda.memory_stats()["num_device_alloc"] == before
    assert profiled - _calls(lambda: None) == Counter()  # less what the profiler itself calls


@pytest.mark.parametrize("is_resident", [False, True])
@pytest.mark.parametrize("end_token", [None, 3])
def test_the_device_makes_what_the_host_makes(
    corpus: Path, is_resident: bool, end_token: int | None
) -> None:
    windows = iopipe.read(corpus, window=WINDOW).shuffle(5)
    host = windows.next_token(end_token=end_token).batch(16)
    device = windows.next_token(end_token=end_token, resident=is_resident).batch(16).to("cuda")
    with host.run() as expected, device.run() as found:
        for one, other in zip(expected, found, strict=True):
            assert one.keys() == other.keys() and one["__key__"] == other["__key__"]
            for name in set(one) - {"__key__"}:
                assert other[name].is_cuda and torch.equal(one[name], other[name].cpu())
        assert expected.state_dict() == found.state_dict()


@pytest.mark.parametrize("mode", ["none", "full"])
def test_direct_reads_bring_what_the_host_reads(table: Path, mode: Any) -> None:
    pytest.importorskip("kvikio")
    pipeline = iopipe.read(table).shuffle(2, mode=mode).batch(3000)
    with pipeline.run() as expected, pipeline.to("cuda", path="direct").run() as found:
        for one, other in zip(expected, found, strict=True):
            assert other["x"].is_cuda
            assert torch.equal(one["x"], other["x"].cpu())
            assert torch.equal(one["y"], other["y"].cpu())


def test_auto_measures_and_says_so(table: Path) -> None:
    pipeline = iopipe.read(table).batch(30_000).to("cuda", path="auto")
    assert "(auto: " in pipeline.describe()


def test_a_slot_is_page_locked_on_huge_pages() -> None:
    link = CudaLink("cuda")
    slot = private_slot(64 << 20, pinning=link)
    assert slot.buffer.is_pinned()
    device = torch.zeros(64 << 20, dtype=torch.uint8, device="cuda")
    slot.buffer.fill_(9)
    link.events.synchronize(link.send(device, slot.buffer, None))
    assert int(device.min()) == 9
