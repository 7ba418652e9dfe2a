"""Decoding: the pixels that Pillow and torch compute, for any file, chunk and thread."""

from __future__ import annotations

import io
import json
import math
import os
import random
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
from PIL import Image

from iopipe.draws import uniform
from iopipe.errors import DataError, PipelineError
from iopipe.loaders.decode import crops, make_decoder
from iopipe.protocols import Column, Ragged, Samples
from iopipe.stages import ImageOptions


def _samples(contents: list[Any], name: str = "jpg", first: int = 0, **fields: Any) -> Samples:
    return Samples(
        ids=np.arange(first, first + len(contents)),
        keys=[str(number) for number in range(len(contents))],
        columns={name: [memoryview(c) if isinstance(c, bytes) else c for c in contents]},
        **fields,
    )


def _decoded(content: bytes, name: str = "jpg", **options: Any) -> Any:
    return make_decoder(ImageOptions(**options))(_samples([content], name)).columns[name][0]


# ---- formats -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "name", "mode", "options"),
    [
        ("JPEG", "jpg", "RGB", {"quality": 92}),
        ("JPEG", "jpeg", "RGB", {"quality": 92, "subsampling": 0}),
        ("JPEG", "jpg", "RGB", {"progressive": True}),
        ("JPEG", "jpg", "L", {}),
        ("JPEG", "jpg", "CMYK", {}),
        ("PNG", "png", "RGB", {}),
        ("PNG", "png", "RGBA", {}),
        ("PNG", "png", "P", {}),
        ("PNG", "png", "L", {}),
        ("PNG", "png", "1", {}),
        ("WEBP", "webp", "RGB", {"lossless": True}),
        ("BMP", "bmp", "RGB", {}),
        ("TIFF", "tiff", "RGB", {}),
        ("GIF", "gif", "P", {}),
        ("JPEG2000", "jp2", "RGB", {}),
        ("JPEG2000", "j2k", "L", {"no_jp2": True}),
        ("PNG", "jpg", "RGB", {}),
    ],
)
def test_pixels_equal_those_of_pillow(
    kind: str, name: str, mode: str, options: dict[str, Any]
) -> None:
    content = _encoded(_picture(61, 83).convert(mode), kind, **options)
    expected = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    difference = np.abs(_decoded(content, name).astype(int) - expected)
    assert difference.max() <= (2 if mode == "CMYK" else 0)


def test_16_bit_grey_keeps_its_high_byte() -> None:
    values = np.arange(0, 65533, 13, dtype=np.uint16).reshape(71, 71)
    content = _encoded(Image.fromarray(values), "PNG")
    assert np.array_equal(_decoded(content, "png")[..., 1], values >> 8)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (8, 8), (1500, 2)])
def test_extreme_shapes_are_decoded_and_resized(size: tuple[int, int]) -> None:
    content = _encoded(_picture(*size))
    assert _decoded(content).shape == (*size, 3)
    for crop in ("none", "center", "random"):
        assert _decoded(content, size=(16, 24), crop=crop).shape == (16, 24, 3)


def test_a_palette_with_graded_alpha_loses_its_alpha_alone() -> None:
    palette = _picture(40, 30).quantize(16)
    content = _encoded(palette, "PNG", transparency=bytes(range(0, 256, 16)))
    assert np.array_equal(_decoded(content, "png"), np.asarray(palette.convert("RGB")))


@pytest.mark.parametrize("mode", ["F", "I"])
def test_pixels_without_a_range_are_refused_rather_than_clipped(mode: str) -> None:
    content = _encoded(_picture(10, 10).convert(mode), "TIFF")
    with pytest.raises(DataError, match="npy"):
        _decoded(content, "tif")


def test_exif_orientation_is_not_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert _decoded(_encoded(_picture(30, 50), exif=exif)).shape == (30, 50, 3)


# ---- damage --------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [0, 1, 2, 3, 20, 300, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_truncated_image_is_damage_never_a_grey_picture(kind: str, keep: float) -> None:
    content = _encoded(_picture(100, 140), kind)
    cut = content[: int(keep if keep >= 1 else keep * len(content))]
    with pytest.raises(DataError) as caught:
        _decoded(cut, kind.lower())
    assert caught.value.row == 0


@pytest.mark.parametrize("keep", [0.3, 0.6, 0.95])
def test_a_truncated_progressive_jpeg_is_damage(keep: float) -> None:
    content = _encoded(_picture(100, 140), progressive=True)
    with pytest.raises(DataError, match=r"field 'jpg': .*[Pp]remature end"):
        _decoded(content[: int(keep * len(content))])


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of odd but harmless TIFF tags
@pytest.mark.parametrize("size", [None, (16, 16)])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("PNG", {}),
        ("WEBP", {}),
        ("BMP", {}),
        ("TIFF", {}),
        ("GIF", {}),
        ("PPM", {}),
    ],
)
def test_flipped_bytes_give_an_image_or_damage_and_nothing_else(
    kind: str, options: dict[str, Any], size: tuple[int, int] | None
) -> None:
    generator = random.Random(7)
    good = bytearray(_encoded(_picture(24, 30), kind, **options))
    decode = make_decoder(ImageOptions(size=size, max_pixels=1 << 20))
    num_damaged = 0
    for _ in range(150):
        content = bytearray(good)
        for _ in range(generator.choice((1, 3, 10))):
            content[generator.randrange(min(len(content), 400))] = generator.randrange(256)
        try:
            (image,) = decode(_samples([bytes(content)])).columns["jpg"]
        except DataError as error:
            num_damaged += 1
            assert error.row == 0
        else:
            assert isinstance(image, np.ndarray) and image.dtype == np.uint8
    assert 0 < num_damaged


def test_postscript_is_refused_and_no_program_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[object] = []
    monkeypatch.setattr("subprocess.Popen", lambda *command, **_: started.append(command))
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", "gs")
    with pytest.raises(DataError, match="cannot identify"):
        _decoded(_encoded(_picture(20, 20), "EPS"), "png")
    assert not started


def test_garbage_is_damage_and_names_its_row() -> None:
    good = _encoded(_picture(20, 20))
    garbage = random.Random(1).randbytes(5000)
    for bad in (garbage, b"\xff\xd8\xff" + garbage, b"\x89PNG\r\n\x1a\n" + garbage, b"x"):
        with pytest.raises(DataError) as caught:
            make_decoder(ImageOptions(size=(8, 8)))(_samples([good, good, bad]))
        assert caught.value.row == 2


def test_a_huge_image_is_refused_before_it_is_decoded() -> None:
    content = bytearray(_encoded(_picture(64, 64)))
    place = content.index(b"\xff\xc0\x00\x11\x08") + 5
    content[place : place + 4] = b"\x70\x00\x70\x00"  # a header of 28672 x 28672 pixels
    with pytest.raises(DataError, match="max_pixels"):
        _decoded(bytes(content))
    with pytest.raises(DataError, match="64 x 64 pixels"):
        _decoded(_encoded(_picture(64, 64)), max_pixels=4095)
    with pytest.raises(DataError, match="64 x 64 pixels"):
        _decoded(_encoded(_picture(64, 64), "PNG"), "png", max_pixels=4095)


# ---- crop, resize, flip --------------------------------------------------------------


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


# ---- other fields --------------------------------------------------------------------


def test_fields_are_decoded_by_their_extension() -> None:
    array = np.arange(6.0).reshape(2, 3)
    raw = io.BytesIO()
    np.save(raw, array)
    columns: dict[str, Column] = {
        "cls": [b"3", b"-4"],
        "meta.json": [b'{"a": [1]}', b"null"],
        "txt": ["grün".encode(), b""],
        "npy": [memoryview(raw.getvalue())] * 2,
        "bin": [b"\x00", b"\x01"],
        "x": np.ones(2),
        "caption": ["kept", "as it is"],
    }
    samples = Samples(ids=np.arange(2), keys=["a", "b"], columns=columns)
    decoded = make_decoder(ImageOptions())(samples).columns
    assert decoded["cls"].tolist() == [3, -4]  # type: ignore[union-attr]
    assert decoded["meta.json"] == [{"a": [1]}, None]
    assert decoded["txt"] == ["grün", ""]
    assert np.array_equal(decoded["npy"], [array, array])
    assert all(decoded[name] is columns[name] for name in ("bin", "x", "caption"))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("cls", b"seven"),
        ("cls", b"9" * 30),
        ("json", b"{"),
        ("txt", b"\xff\xfe\xfd"),
        ("npy", b"\x93NUMPY"),
        ("npy", b""),
    ],
)
def test_a_field_that_cannot_be_decoded_is_damage(name: str, content: bytes) -> None:
    good = {"cls": b"1", "json": json.dumps({}).encode(), "txt": b"x"}.get(name)
    contents = [good, content] if good else [content]
    with pytest.raises(DataError, match="cannot be decoded") as caught:
        make_decoder(ImageOptions())(_samples(contents, name))
    assert caught.value.row == len(contents) - 1


def test_pickled_arrays_are_refused() -> None:
    raw = io.BytesIO()
    np.save(raw, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="allow_pickle"):
        _decoded(raw.getvalue(), "npy")


def test_an_archive_or_a_claim_of_petabytes_is_damage_too() -> None:
    archive, huge = io.BytesIO(), io.BytesIO()
    np.savez(archive, a=np.ones(3))
    np.lib.format.write_array_header_1_0(
        huge, {"descr": "<f8", "fortran_order": False, "shape": (1 << 50,)}
    )
    for content in (archive.getvalue(), huge.getvalue()):
        with pytest.raises(DataError, match="field 'npy'"):
            _decoded(content, "npy")


def test_flipped_bytes_give_an_array_or_damage_and_nothing_else() -> None:
    raw = io.BytesIO()
    np.save(raw, np.arange(6.0).reshape(2, 3))
    generator = random.Random(3)
    num_damaged = 0
    for _ in range(500):
        content = bytearray(raw.getvalue())
        for _ in range(generator.choice((1, 3))):
            content[generator.randrange(len(content))] = generator.choice(b"\0\xff9(' ")
        try:
            assert isinstance(_decoded(bytes(content), "npy"), np.ndarray | np.generic)
        except DataError:
            num_damaged += 1
    assert 0 < num_damaged < 500


def test_rows_of_numbers_are_not_taken_for_text() -> None:
    tokens = Ragged(np.arange(10, dtype=np.int32), np.array([0, 4]), np.array([4, 6]))
    samples = Samples(ids=np.arange(2), keys=["a", "b"], columns={"text": tokens})
    assert make_decoder(ImageOptions())(samples).columns["text"] is tokens


@pytest.mark.parametrize(
    "options",
    [
        {"crop": "random"},
        {"fidelity": "scaled"},
        {"size": (0, 5)},
        {"size": (8, 8), "crop": "top"},
        {"size": (8, 8), "fidelity": "best"},
        {"size": (8, 8), "scale": (0.5, 0.1)},
    ],
)
def test_options_are_checked_when_built(options: dict[str, Any]) -> None:
    with pytest.raises(PipelineError):
        make_decoder(ImageOptions(**options))
