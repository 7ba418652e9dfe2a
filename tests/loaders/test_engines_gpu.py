"""The engines on a real GPU: parity with the CPU, damage, and a run from shards to the device."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes.pictures import damaged_pictures, encoded, picture, samples_of, sound_pictures

import iopipe
from iopipe.errors import DataError
from iopipe.loaders.decode import make_decoder, open_engine
from iopipe.stages import ImageOptions

pytestmark = pytest.mark.gpu

ENGINES = ("dali", "nvimgcodec", "hybrid")
SIZE = (160, 192)
MEAN_BOUND, P99_BOUND = 1.5, 8.0
"""Of 255, per image; what is allowed for nvJPEG's own rounding and interpolation of chroma.  How
far it really is, `python -m iopipe.bench.decode_parity --device cuda` measures."""
LOSSLESS = {"png", "16-bit png", "palette png", "alpha png", "gif", "tiff", "webp", "bmp", "cmyk"}
LOSSLESS |= {"jpeg 2000"}


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    needed = "nvidia.dali" if request.param == "dali" else "nvidia.nvimgcodec"
    importlib.import_module(needed)  # an error, no skip: the machine was set up for these tests
    return str(request.param)


def _differences(found: Any, expected: Any) -> np.ndarray[Any, Any]:
    return np.abs(found.cpu().numpy().astype(int) - np.asarray(expected).astype(int))


@pytest.mark.parametrize("crop", ["none", "center", "random"])
def test_pixels_are_those_of_the_cpu_within_the_bound(engine: str, crop: str) -> None:
    pictures = sound_pictures()
    samples = samples_of(list(pictures.values()))
    options = {"size": SIZE, "crop": crop, "flip": True}
    expected = make_decoder(ImageOptions(**options))(samples).columns["jpg"]
    held = open_engine(ImageOptions(**options, engine=engine), "cuda")
    try:
        for _ in range(3):  # hybrid's shares move in between
            found = held(samples).columns["jpg"].tensor
            assert found.is_cuda and found.shape == (len(pictures), *SIZE, 3)
            differences = _differences(found, expected)
            for row, name in enumerate(pictures):
                if name in LOSSLESS:
                    assert differences[row].max() <= 1, name
                assert differences[row].mean() <= MEAN_BOUND, (name, differences[row].mean())
                assert np.percentile(differences[row], 99) <= P99_BOUND, name
    finally:
        held.close()
    notes = "\n".join(held.notes())
    assert "PNG is none of its formats" in notes and "JPEG in CMYK or YCCK is none" in notes
    assert "refused" not in notes and "could not decode" not in notes, notes


@pytest.mark.parametrize("name", sorted(damaged_pictures()))
def test_damage_is_named(engine: str, name: str) -> None:
    good = encoded(picture(90, 120))
    held = open_engine(ImageOptions(size=SIZE, engine=engine), "cuda")
    try:
        with pytest.raises(DataError, match="field 'jpg'") as caught:
            held(samples_of([good, good, damaged_pictures()[name], good]))
        assert caught.value.row == 2
        assert len(held(samples_of([good] * 3)).columns["jpg"]) == 3
    finally:
        held.close()


def test_the_same_launch_normalises(engine: str) -> None:
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    samples = samples_of([encoded(picture(200 + number, 240, number)) for number in range(8)])
    plain = ImageOptions(size=SIZE, crop="random", flip=True, engine=engine)
    found = []
    for options in (plain, replace(plain, dtype="bfloat16", mean=mean, std=std)):
        held = open_engine(options, "cuda")
        found.append(held(samples).columns["jpg"].tensor.float())
        held.close()
    pixels, normalised = found
    expected = (pixels / 255 - pixels.new_tensor(mean)) / pixels.new_tensor(std)
    # Two runs of hybrid may share the images out otherwise.
    assert (normalised - expected).abs().mean() <= 0.5 / 255 / min(std) + MEAN_BOUND / 255


def _dataset(folder: Path) -> Path:
    with iopipe.DatasetWriter(folder, max_samples=50) as writer:
        for number in range(160):
            content = encoded(picture(200 + number, 240, number))
            writer.write({"__key__": f"{number:03d}", "jpg": content, "cls": number})
    return folder


def test_a_run_delivers_on_the_device_and_allocates_nothing_once_it_is_warm(
    engine: str, tmp_path: Path
) -> None:
    reading = iopipe.read(_dataset(tmp_path)).shuffle(seed=2)
    options = {"size": 96, "crop": "random", "flip": True}
    by_cpu = reading.decode(**options).batch(32)
    pipeline = reading.decode(**options, engine=engine).batch(32).to("cuda")
    allocations = []
    with by_cpu.run(num_epochs=6) as expected, pipeline.run(num_epochs=6) as run:
        for one, other in zip(expected, run, strict=True):
            assert one["__key__"] == other["__key__"] and other["jpg"].is_cuda
            assert torch.equal(one["cls"], other["cls"].cpu())
            assert _differences(other["jpg"], one["jpg"]).mean() <= MEAN_BOUND
            allocations.append(torch.cuda.memory_stats()["num_device_alloc"])
        report = run.report()
    assert allocations[-1] == allocations[len(allocations) // 2]
    assert any(stage.cause == "gpu_decode" for stage in report.stages)


def test_batches_that_are_kept_keep_their_pixels(engine: str, tmp_path: Path) -> None:
    pipeline = iopipe.read(_dataset(tmp_path)).decode(size=64, engine=engine).batch(16).to("cuda")
    with pipeline.run() as run:
        kept = [(batch["jpg"], batch["jpg"].clone()) for batch in run]
    torch.cuda.synchronize()
    assert len(kept) == 10
    assert all(torch.equal(tensor, copy) for tensor, copy in kept)
