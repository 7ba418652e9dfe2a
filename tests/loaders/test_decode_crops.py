"""Crop, resize and flip: the pixels of the drawn region, for any chunk and thread."""

from __future__ import annotations

import math
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import simplejpeg
import torch
from fakes.pictures import encoded as _encoded
from fakes.pictures import picture as _picture
from fakes.pictures import resized as _reference
from fakes.pictures import samples_of as _samples
from PIL import Image

from iopipe.draws import uniform
from iopipe.loaders.decode import crops, make_decoder
from iopipe.stages import ImageOptions


def _decoded(content: bytes, name: str = "jpg", **options: Any) -> Any:
    samples = _samples([content], name=name)
    return make_decoder(ImageOptions(**options))(samples).columns[name][0]


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ((375, 500), (224, 224)),
        ((100, 90), (224, 224)),
        ((600, 200), (32, 48)),
        ((50, 50), (50, 50)),
    ],
)
def test_exact_resize_is_within_one_unit_of_the_float_reference(
    source: tuple[int, int], target: tuple[int, int]
) -> None:
    content = _encoded(_picture(*source))
    pixels = simplejpeg.decode_jpeg(content)
    difference = np.abs(_decoded(content, size=target) - _reference(pixels, target))
    assert difference.max() <= 1.01
    assert difference.mean() < 0.4


def test_random_crops_are_the_drawn_regions_of_the_full_image() -> None:
    content = _encoded(_picture(375, 500))
    pixels = simplejpeg.decode_jpeg(content)
    options = ImageOptions(size=(96, 96), crop="random", flip=True)
    samples = _samples([content] * 12, seed=5, epoch=2)
    sizes = np.array([pixels.shape[:2]] * 12)
    results = make_decoder(options)(samples).columns["jpg"]
    mirrored = crops.flips(samples, options)
    assert 0 < mirrored.sum() < 12
    for row, (top, left, height, width) in enumerate(crops.boxes(samples, sizes, options)):
        expected = _reference(pixels[top : top + height, left : left + width], (96, 96))
        got = results[row][:, ::-1] if mirrored[row] else results[row]
        assert np.abs(got - expected).max() <= 1.01


def test_scaled_is_close_to_exact() -> None:
    smooth = _picture(8, 11).resize((1100, 800), Image.BICUBIC)
    content = _encoded(smooth, quality=95)
    exact, scaled = (
        _decoded(content, size=(96, 96), fidelity=fidelity).astype(int)
        for fidelity in ("exact", "scaled")
    )
    assert np.abs(exact - scaled).mean() < 2
    assert np.abs(exact - scaled).max() > 0  # it really is another way


def test_a_scaled_crop_shows_the_same_region_as_an_exact_one() -> None:
    # In the ramp a pixel's red and green are its place, so an error is a shift in pixels.
    rows, columns = np.mgrid[0:1000, 0:1000] // 4
    ramp = np.stack([rows, columns, np.full_like(rows, 128)], axis=-1).astype(np.uint8)
    content = _encoded(Image.fromarray(ramp), quality=98, subsampling=0)
    samples = _samples([content] * 40, seed=1)
    exact, scaled = (
        make_decoder(ImageOptions(size=(32, 32), crop="random", fidelity=fidelity))(samples)
        for fidelity in ("exact", "scaled")
    )
    shift = 4 * np.subtract(scaled.columns["jpg"], exact.columns["jpg"], dtype=np.float64)
    boxes = crops.boxes(samples, np.full((40, 2), 1000), ImageOptions(size=(32, 32), crop="random"))
    # Every edge lies within half a pixel of the output; 3 pixels of the image are the JPEG's.
    allowed = 0.5 * boxes[:, 2:] / 32 + 3
    for edge in (0, -1):
        assert (np.abs(shift[:, edge, :, 0].mean(axis=1)) <= allowed[:, 0]).all()
        assert (np.abs(shift[:, :, edge, 1].mean(axis=1)) <= allowed[:, 1]).all()


def test_results_share_no_memory_with_what_is_decoded_next() -> None:
    contents = [_encoded(_picture(60, 50, seed=n)) for n in range(3)]
    for options in (ImageOptions(), ImageOptions(flip=True), ImageOptions(size=(60, 50))):
        decode = make_decoder(options)
        first = decode(_samples(contents)).columns["jpg"]
        before = [np.array(image) for image in first]
        decode(_samples(contents[::-1], first=7))
        assert all(np.array_equal(image, old) for image, old in zip(first, before, strict=True))
        assert all(image.flags.writeable for image in first)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="lists threads in /proc")
@pytest.mark.skipif(torch.get_num_threads() < 2, reason="torch has no pool that could start")
@pytest.mark.skipif(
    "AVX" not in torch.backends.cpu.get_cpu_capability(), reason="torch's serial kernel is AVX2's"
)
def test_decoding_starts_no_threads_of_its_own() -> None:
    contents = [_encoded(_picture(400, 500, seed=n), k) for n, k in enumerate(("JPEG", "PNG"))]
    decode = make_decoder(ImageOptions(size=(224, 224), crop="random", flip=True))

    def started() -> set[str]:
        before = set(os.listdir("/proc/self/task"))
        for number in range(8):  # both flips, many crops
            decode(_samples(contents, first=2 * number))
        return set(os.listdir("/proc/self/task")) - before

    # A thread of its own: torch's pool would be started anew for it.
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(started).result() == set()


def test_chunks_and_threads_change_nothing() -> None:
    contents = [_encoded(_picture(90 + 7 * n, 120, seed=n)) for n in range(10)]
    decode = make_decoder(ImageOptions(size=(40, 40), crop="random", flip=True))
    whole = decode(_samples(contents, seed=3, epoch=1)).columns["jpg"]
    with ThreadPoolExecutor(4) as pool:
        parts = list(
            pool.map(
                lambda n: decode(_samples([contents[n]], first=n, seed=3, epoch=1)).columns["jpg"],
                range(10),
            )
        )
    assert np.array_equal(np.concatenate(parts), whole)
    other = decode(_samples(contents, seed=3, epoch=2)).columns["jpg"]
    assert not np.array_equal(other, whole)


def _torchvision_crop(
    draws: list[list[float]], height: int, width: int, options: ImageOptions
) -> tuple[int, int, int, int]:
    """RandomResizedCrop as its documentation defines it, one scalar after the other."""
    low, high = options.scale
    for first, second, third, fourth in draws:
        area = height * width * (low + first * (high - low))
        bounds = [math.log(value) for value in options.ratio]
        ratio = math.exp(bounds[0] + second * (bounds[1] - bounds[0]))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(third * (height - h + 1)), int(fourth * (width - w + 1)), h, w
    ratio = width / height
    if ratio < options.ratio[0]:
        w, h = width, round(width / options.ratio[0])
    elif ratio > options.ratio[1]:
        w, h = round(height * options.ratio[1]), height
    else:
        w, h = width, height
    return (height - h) // 2, (width - w) // 2, h, w


@pytest.mark.parametrize("scale", [(0.08, 1.0), (0.9, 1.0)])
def test_random_crops_follow_torchvisions_definition(scale: tuple[float, float]) -> None:
    options = ImageOptions(size=(8, 8), crop="random", scale=scale)
    generator = np.random.default_rng(0)
    sizes = generator.integers(1, 900, (500, 2))
    samples = _samples([b""] * 500, seed=9, epoch=4)
    draws = uniform(samples.ids, seed=9, epoch=4, op="crop", num_draws=40)
    expected = [
        _torchvision_crop(draws[row].reshape(10, 4).tolist(), int(h), int(w), options)
        for row, (h, w) in enumerate(sizes)
    ]
    assert crops.boxes(samples, sizes, options).tolist() == [list(box) for box in expected]


def test_center_crop_is_the_largest_region_of_the_targets_shape() -> None:
    options = ImageOptions(size=(100, 200), crop="center")
    sizes = np.array([[100, 100], [100, 500], [37, 74]])
    boxes = crops.boxes(_samples([b""] * 3), sizes, options)
    assert boxes.tolist() == [[25, 0, 50, 100], [0, 150, 100, 200], [0, 0, 37, 74]]
