"""Feeds and ranks on real GPUs, in small; the figures come from the benchmarks themselves."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from iopipe.bench import training, two_ranks
from iopipe.bench.feeds import FEEDS, MEAN, STD, Job
from iopipe.bench.loader import prepare

pytestmark = [
    pytest.mark.gpu,
    # torch forks its workers beside CUDA's threads, as scripts do.
    pytest.mark.filterwarnings("ignore:This process:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for number in range(12):
        pixels = np.full((70, 90, 3), 20 * number, np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02d}.jpg", quality=95)
    return folder


@pytest.mark.parametrize(
    ("feed", "settings"),
    [
        ("iopipe", {"workers": 2}),
        ("iopipe", {"workers": 0}),
        ("torch", {"workers": 2}),
        pytest.param("dali", {"threads": 2, "load": 0.9}, marks=pytest.mark.dali),
    ],
)
def test_batches_are_on_the_gpu_with_their_labels(
    images: Path, tmp_path: Path, feed: str, settings: dict[str, Any]
) -> None:
    prepare(images, tmp_path, num_samples=96, num_shards=3)
    job = Job(dataset=tmp_path, device="cuda:0", batch_size=16, size=32, settings=settings)
    mean, std = (torch.tensor(one, device="cuda").view(3, 1, 1) for one in (MEAN, STD))
    with FEEDS[feed](job) as batches:
        for pixels, labels in islice(batches, 12):
            assert pixels.dtype == torch.bfloat16 and pixels.is_cuda and labels.is_cuda
            assert pixels.is_contiguous(memory_format=torch.channels_last)
            colours = ((pixels.float() * std + mean) * 255).mean(dim=(1, 2, 3)) / 20
            assert colours.round().long().tolist() == labels.tolist()


def test_feeds_are_compared_on_a_gpu(images: Path, tmp_path: Path) -> None:
    options = (
        f"--images {images} --json {tmp_path / 'out.json'} --model tiny --cores 2 --size 32 "
        "--feeds synthetic,iopipe,torch --batch 16 --samples 96 --shards 3 --seconds 0.2 "
        "--warmup 2 --rounds 2 --sweep iopipe.workers=1 --sweep torch.workers=2"
    )
    rows = training.main(options.split())
    assert [row["name"] for row in rows] == ["synthetic", "iopipe", "torch"]
    assert "gpu" in json.loads((tmp_path / "out.json").read_text())["environment"]


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.timeout(500)
def test_two_ranks_over_nccl(images: Path, tmp_path: Path) -> None:
    options = (
        f"--images {images} --json {tmp_path / 'out.json'} --folder {tmp_path} --model tiny "
        "--batch 4 --size 32 --workers 1 --samples 60 --shards 3 --seconds 0.2 --rounds 1 "
        "--warmup 2 --delay 0.05"
    )
    rows = {row["part"]: row for row in two_ranks.main(options.split())}
    assert rows["epoch"]["audit_is_exact"] and rows["killed"]["audit_is_exact"]
    assert rows["speed"]["cpus_are_disjoint"]
    assert rows["speed"]["contexts"] == [[0], [1]]  # no rank has one on the other's GPU
    assert rows["straggler"]["runs"][1]["stall_seconds"][1] >= rows["straggler"]["injected_seconds"]
