"""Clips by DALI and the GPU's video decoder, against the frames that FFmpeg decodes."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes.pictures import resized, samples_of
from fakes.videos import (
    HEIGHT,
    KINDS,
    KINDS_ON_GPU,
    WIDTH,
    by_ffmpeg,
    damaged_videos,
    numbers_of,
    video,
)

import iopipe
from iopipe.errors import DataError
from iopipe.loaders.decode import crops, open_engine
from iopipe.loaders.decode.clips import starts
from iopipe.stages import Clip, ImageOptions

pytestmark = pytest.mark.gpu

SIZE = (240, 320)
"""The video decoder takes none that are much smaller."""
ENCODED = [*KINDS_ON_GPU, *(kind for kind in KINDS if not kind.startswith("mjpeg"))]
CLIP = Clip(num_frames=5, stride=3)
OPTIONS = ImageOptions(size=(HEIGHT, WIDTH), engine="dali", clip=CLIP)
MEAN_BOUND = 3.0
"""Of 255, per frame: for another conversion to RGB and another interpolation of chroma."""


@pytest.fixture(autouse=True)
def _dali() -> None:
    importlib.import_module("nvidia.dali")  # an error, no skip: the machine was set up for these


def _decoded(samples: Any, options: ImageOptions) -> torch.Tensor:
    held = open_engine(options, "cuda")
    try:
        tensor: torch.Tensor = held(samples).columns["mp4"].tensor
    finally:
        held.close()
    assert tensor.is_cuda
    return tensor


@pytest.mark.parametrize("kind", ENCODED)
def test_frames_are_those_that_were_drawn(kind: str) -> None:
    contents = [video(kind, num_frames=number, size=SIZE) for number in (13, 20, 32, 47)] * 2
    samples = samples_of(contents, first=70, name="mp4")
    found = _decoded(samples, replace(OPTIONS, size=SIZE)).cpu().numpy()
    frames = [by_ffmpeg(content) for content in contents[:4]] * 2
    firsts = starts(samples, np.array([len(one) for one in frames]), CLIP)
    assert found.shape == (8, 5, *SIZE, 3) and found.dtype == np.uint8
    for row, first in enumerate(firsts.tolist()):
        assert numbers_of(found[row]) == [first + 3 * place for place in range(5)]
        errors = np.abs(found[row] - frames[row][first : first + 13 : 3])
        assert errors.mean(axis=(1, 2, 3)).max() <= MEAN_BOUND


def test_crop_resize_and_flip_are_those_of_an_image() -> None:
    sizes = [(240, 320), (270, 480), (720, 400)]
    contents = [video("h264 in mp4", num_frames=14, size=size) for size in sizes] * 3
    options = replace(OPTIONS, size=(99, 131), crop="random", flip=True)
    samples = samples_of(contents, first=9, name="mp4")
    found = _decoded(samples, options).cpu().numpy()
    boxes = crops.boxes(samples, np.array(sizes * 3), options)
    mirrored = crops.flips(samples, options)
    firsts = starts(samples, np.full(9, 14), CLIP)
    for row, (top, left, height, width) in enumerate(boxes.tolist()):
        frames = by_ffmpeg(contents[row])[firsts[row] :: 3][:5]
        for frame, made in zip(frames, found[row], strict=True):
            expected = resized(frame[top : top + height, left : left + width], (99, 131))
            got = made[:, ::-1] if mirrored[row] else made
            assert np.abs(got - expected).mean() <= MEAN_BOUND, sizes[row % 3]


@pytest.mark.parametrize("name", sorted(set(damaged_videos()) - {"frames of noise"}))
def test_damage_is_named_and_what_is_sound_goes_on(name: str) -> None:
    good = video("h264 in mp4", size=SIZE)
    held = open_engine(OPTIONS, "cuda")
    try:
        with pytest.raises(DataError, match="field 'mp4'") as caught:
            held(samples_of([good, good, damaged_videos()[name], good], name="mp4"))
        assert caught.value.row == 2
        assert len(held(samples_of([good] * 3, name="mp4")).columns["mp4"]) == 3
    finally:
        held.close()


def test_the_same_launch_normalises() -> None:
    samples = samples_of([video("h264 in mp4", size=SIZE)] * 3, name="mp4")
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    pixels = _decoded(samples, OPTIONS).float()
    normalised = _decoded(samples, replace(OPTIONS, dtype="bfloat16", mean=mean, std=std))
    expected = (pixels / 255 - pixels.new_tensor(mean)) / pixels.new_tensor(std)
    assert normalised.dtype == torch.bfloat16 and normalised.shape == (3, 5, HEIGHT, WIDTH, 3)
    assert (normalised.float() - expected).abs().mean() <= 1 / 255 / min(std)


def test_a_run_delivers_clips_on_the_device(tmp_path: Path) -> None:
    with iopipe.DatasetWriter(tmp_path, max_samples=20) as writer:
        for number in range(48):
            content = video("h264 in mp4", num_frames=14 + number, size=SIZE)
            writer.write({"__key__": f"{number:02d}", "mp4": content, "cls": number})
    pipeline = (
        iopipe.read(tmp_path)
        .shuffle(seed=2)
        .decode(size=64, crop="random", engine="dali", clip=Clip(num_frames=4, stride=2))
        .batch(8)
        .to("cuda")
    )
    allocations, epochs = [], 4
    with pipeline.run(num_epochs=epochs) as run:
        for batch in run:
            assert batch["mp4"].is_cuda and batch["mp4"].shape == (8, 4, 64, 64, 3)
            assert torch.equal(batch["cls"].cpu(), torch.tensor([*map(int, batch["__key__"])]))
            allocations.append(torch.cuda.memory_stats()["num_device_alloc"])
        report = run.report()
    assert len(allocations) == 6 * epochs and allocations[-1] == allocations[len(allocations) // 2]
    assert any(stage.cause == "gpu_decode" for stage in report.stages)
