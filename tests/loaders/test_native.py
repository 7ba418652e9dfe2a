"""Native JPEG regions against a full decode by another binding, and against torch in float64."""

from __future__ import annotations

import io
from random import Random
from typing import Any

import numpy as np
import pytest
import simplejpeg
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from iopipe.errors import DataError
from iopipe.loaders.decode import native
from iopipe.loaders.decode.stage import make_decoder
from iopipe.protocols import Samples
from iopipe.stages import ImageOptions

ENCODINGS: dict[str, dict[str, Any]] = {
    "4:4:4": {"subsampling": 0},
    "4:2:2": {"subsampling": 1},
    "4:2:0": {"subsampling": 2},
    "progressive": {"subsampling": 2, "progressive": True},
    "restarts": {"subsampling": 2, "restart_marker_blocks": 2},
    "rows of restarts": {"subsampling": 0, "restart_marker_rows": 1},
    "tables of its own": {"subsampling": 1, "optimize": True},
}


def photograph(height: int, width: int, seed: int = 1) -> Image.Image:
    """Smooth and sharp parts, so that every coefficient of a block is there."""
    generator = np.random.default_rng(seed)
    small = generator.integers(0, 256, (9, 9, 3), dtype=np.uint8)
    image = np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))
    noise = generator.integers(-30, 30, image.shape)
    return Image.fromarray(np.clip(image.astype(int) + noise, 0, 255).astype(np.uint8))


def encoded(image: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=88, **options)
    return file.getvalue()


def region(
    content: bytes,
    box: tuple[int, int, int, int],
    size: tuple[int, int],
    *,
    mirrored: bool = False,
    is_scaled: bool = False,
) -> np.ndarray:
    """Decoded into poisoned memory with guards before and behind."""
    num_bytes = size[0] * size[1] * 3
    memory = np.full(num_bytes + 32, 0xA5, np.uint8)
    target = memory[16 : 16 + num_bytes].reshape(*size, 3)
    native.decode_regions(
        [memoryview(content)],
        np.array([box]),
        np.array([mirrored]),
        [target],
        is_scaled=is_scaled,
    )
    assert (memory[:16] == 0xA5).all() and (memory[16 + num_bytes :] == 0xA5).all()
    return target


def weights(inputs: int, outputs: int) -> np.ndarray:
    """[outputs, inputs]: a triangle as wide as the reduction, over pixel centres."""
    scale = inputs / outputs
    centres = (np.arange(outputs)[:, None] + 0.5) * scale
    far = np.abs(np.arange(inputs) + 0.5 - centres) / max(scale, 1)
    found = np.clip(1 - far, 0, None)
    return found / found.sum(axis=1, keepdims=True)


def resized(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """In float64, [height, width, 3]."""
    down, across = weights(pixels.shape[0], size[0]), weights(pixels.shape[1], size[1])
    return np.einsum("yh,hwc,xw->yxc", down, pixels.astype(float), across)


@pytest.mark.parametrize(("height", "width", "size"), [(50, 70, (16, 16)), (9, 12, (31, 40))])
def test_the_reference_is_torchs(height: int, width: int, size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (height, width, 3), dtype=np.uint8)
    planes = torch.from_numpy(pixels.transpose(2, 0, 1).copy()).double()[None]
    found = torch.nn.functional.interpolate(planes, size, mode="bilinear", antialias=True)
    assert np.allclose(found[0].permute(1, 2, 0).numpy(), resized(pixels, size), atol=1e-9)


BOXES = st.tuples(*[st.floats(0, 1)] * 4)


def box_of(shares: tuple[float, ...], height: int, width: int) -> tuple[int, int, int, int]:
    top, left = int(shares[0] * (height - 1)), int(shares[1] * (width - 1))
    return (
        top,
        left,
        1 + int(shares[2] * (height - top - 1)),
        1 + int(shares[3] * (width - left - 1)),
    )


@pytest.mark.parametrize("encoding", list(ENCODINGS))
@given(st.integers(1, 90), st.integers(1, 130), BOXES, st.booleans(), st.booleans())
def test_pixels_are_those_of_a_full_decode(
    encoding: str,
    height: int,
    width: int,
    shares: tuple[float, ...],
    is_grey: bool,
    mirrored: bool,
) -> None:
    """Bit by bit, where nothing is resized."""
    image = photograph(height, width)
    content = encoded(image.convert("L") if is_grey else image, **ENCODINGS[encoding])
    top, left, high, wide = box_of(shares, height, width)
    whole = simplejpeg.decode_jpeg(content, "RGB")
    expected = whole[top : top + high, left : left + wide]
    found = region(content, (top, left, high, wide), (high, wide), mirrored=mirrored)
    assert (found == (expected[:, ::-1] if mirrored else expected)).all()


@given(
    *[st.integers(1, 70)] * 2,
    *[st.integers(1, 40)] * 2,
    BOXES,
    st.booleans(),
)
def test_resizing_is_within_one_unit_of_torch(
    height: int, width: int, high: int, wide: int, shares: tuple[float, ...], mirrored: bool
) -> None:
    content = encoded(photograph(height, width), subsampling=0)
    top, left, rows, columns = box = box_of(shares, height, width)
    whole = simplejpeg.decode_jpeg(content, "RGB")
    expected = resized(whole[top : top + rows, left : left + columns], (high, wide))
    found = region(content, box, (high, wide), mirrored=mirrored)
    if mirrored:
        expected = expected[:, ::-1]
    assert np.abs(found - expected).max() <= 0.55


def test_large_reductions_and_even_areas() -> None:
    content = encoded(photograph(900, 1200))
    expected = resized(simplejpeg.decode_jpeg(content, "RGB"), (7, 5))
    # Weights of 14 bits add up to a fifth of a unit over hundreds of them.
    assert np.abs(region(content, (0, 0, 900, 1200), (7, 5)) - expected).max() <= 0.7
    white = encoded(Image.new("RGB", (300, 200), (255, 255, 255)))
    assert (region(white, (3, 5, 150, 200), (97, 31)) == 255).all()


@pytest.mark.parametrize("denominator", [2, 4, 8])
def test_scaled_is_a_smaller_dct_of_the_region(denominator: int) -> None:
    """Against simplejpeg's own scaling, with the same fast transforms."""
    content = encoded(photograph(320, 480), subsampling=0)
    size = (160 // denominator, 240 // denominator)
    whole = simplejpeg.decode_jpeg(
        content,
        "RGB",
        fastdct=True,
        fastupsample=True,
        min_height=320 // denominator,
        min_width=480 // denominator,
        min_factor=denominator,
    )
    assert whole.shape == (320 // denominator, 480 // denominator, 3)
    found = region(content, (160, 240, 160, 240), size, is_scaled=True)
    assert (found == whole[size[0] :, size[1] :]).all()


def test_many_images_in_one_call() -> None:
    contents = [encoded(photograph(40 + n, 60 + n, seed=n)) for n in range(9)]
    boxes = np.array([(n, n, 30, 40) for n in range(9)])
    flips = np.arange(9) % 2 == 0
    out = np.zeros((9, 16, 16, 3), np.uint8)
    native.decode_regions(
        [memoryview(one) for one in contents], boxes, flips, list(out), is_scaled=False
    )
    for number, content in enumerate(contents):
        box = (number, number, 30, 40)
        assert (out[number] == region(content, box, (16, 16), mirrored=number % 2 == 0)).all()
    native.decode_regions([], boxes[:0], flips[:0], [], is_scaled=False)


# ---- damage ----------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [2, 10, 100, 700, 2500])
def test_cut_images_are_told(cut: int) -> None:
    content = encoded(photograph(90, 130))
    with pytest.raises(DataError, match="cannot be decoded") as caught:
        region(content[:-cut], (0, 0, 90, 130), (16, 16))
    assert caught.value.row == 0


def test_damage_above_the_end_of_the_region_is_told() -> None:
    """And what lies below is not looked at: its rows are never decoded."""
    content = encoded(photograph(200, 60))
    half = content[: len(content) // 2]
    whole = simplejpeg.decode_jpeg(content, "RGB")
    assert (region(half, (0, 0, 40, 60), (40, 60)) == whole[:40]).all()
    with pytest.raises(DataError, match="cannot be decoded"):
        region(half, (150, 0, 40, 60), (40, 60))


@pytest.mark.parametrize("encoding", list(ENCODINGS))
def test_damage_anywhere_is_judged_as_by_libjpeg(encoding: str) -> None:
    """Whole images: refused where it warns, and else its pixels."""
    random = Random(encoding)
    verdicts = []
    for number in range(25):
        height, width = random.randint(1, 60), random.randint(1, 60)
        good = encoded(photograph(height, width, seed=number), **ENCODINGS[encoding])
        for _ in range(6):
            content = damaged(good, random)
            try:
                expected = simplejpeg.decode_jpeg(content, "RGB", strict=True)
            except ValueError:
                expected = None
            size = sizes_of(content)
            if size is None:
                continue
            try:
                found = region(content, (0, 0, *size), size)
            except DataError:
                found = None
            verdicts.append(expected is None)
            assert (found is None) == (expected is None)
            assert found is None or (found == expected).all()
    assert 20 < sum(verdicts) < len(verdicts) - 20


def damaged(content: bytes, random: Random) -> bytes:
    changed = bytearray(content)
    for _ in range(random.choice([1, 1, 1, 2, 5])):
        at = random.randrange(len(changed))
        changed[at] = random.choice([0, 255, 0xD0 + random.randrange(10), random.randrange(256)])
    return bytes(changed)


def sizes_of(content: bytes) -> tuple[int, int] | None:
    """What the header says, where it is one of an image that would be decoded here."""
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
    except ValueError:
        return None
    is_plain = colours in ("Gray", "RGB", "YCbCr") and height * width < 1 << 20
    return (height, width) if is_plain else None


@pytest.mark.parametrize("quality", [1, 60, 100])
def test_coefficients_of_all_sizes(quality: int) -> None:
    """Noise in black and white has the longest codes and values, and all 64 of a block."""
    noise = np.random.default_rng(3).integers(0, 2, (90, 90, 3), dtype=np.uint8) * 255
    for options in ENCODINGS.values():
        file = io.BytesIO()
        Image.fromarray(noise).save(file, "JPEG", quality=quality, **options)
        whole = simplejpeg.decode_jpeg(file.getvalue(), "RGB")
        assert (region(file.getvalue(), (0, 0, 90, 90), (90, 90)) == whole).all()
        part = region(file.getvalue(), (40, 50, 30, 20), (30, 20))
        assert (part == whole[40:70, 50:70]).all()


@pytest.mark.parametrize("content", [b"", b"\xff\xd8\xff", b"no image at all" * 9])
def test_what_is_no_jpeg_is_told(content: bytes) -> None:
    with pytest.raises(DataError, match=r"cannot be decoded: .+"):
        region(content, (0, 0, 1, 1), (1, 1))


@pytest.mark.parametrize("box", [(-1, 0, 5, 5), (0, 0, 0, 5), (0, 0, 91, 5), (0, 126, 5, 5)])
def test_regions_outside_the_image_are_refused(box: tuple[int, int, int, int]) -> None:
    with pytest.raises(DataError, match="not the one of its header"):
        region(encoded(photograph(90, 130)), box, (4, 4))


def test_the_row_of_the_first_bad_image_is_told() -> None:
    """As the decode stage tells it, among images that go another way."""
    good = encoded(photograph(50, 50))
    png = io.BytesIO()
    photograph(50, 50).save(png, "PNG")
    column = [png.getvalue(), good, good[:-900], png.getvalue()]
    samples = Samples(
        ids=np.arange(4),
        keys=list("abcd"),
        columns={"jpg": [memoryview(one) for one in column]},
    )
    with pytest.raises(DataError, match="field 'jpg'") as caught:
        make_decoder(ImageOptions(size=(16, 16)))(samples)
    assert caught.value.row == 2


# ---- regions that are not resized ------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}], ids=str)
def test_cut_regions_are_those_of_a_full_decode_bit_by_bit(options: dict[str, Any]) -> None:
    generator = np.random.default_rng(3)
    contents, boxes, expected = [], [], []
    for number in range(40):
        image = photograph(*generator.integers(1, 200, 2).tolist(), number)
        content = encoded(image if number % 5 else image.convert("L"), **options)
        whole = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
        height, width = (int(generator.integers(1, side + 1)) for side in whole.shape[:2])
        top = int(generator.integers(0, whole.shape[0] - height + 1))
        left = int(generator.integers(0, whole.shape[1] - width + 1))
        contents.append(memoryview(content))
        boxes.append((top, left, height, width))
        expected.append(whole[top : top + height, left : left + width])
    targets = [np.empty(region.shape, np.uint8) for region in expected]
    native.cut_regions(contents, np.array(boxes), targets)
    for target, region in zip(targets, expected, strict=True):
        assert np.array_equal(target, region)


def test_a_damaged_image_among_regions_is_named() -> None:
    good = encoded(photograph(60, 70))
    contents = [memoryview(good), memoryview(good[:900]), memoryview(good)]
    boxes = np.array([(0, 0, 60, 70)] * 3)
    targets = [np.empty((60, 70, 3), np.uint8) for _ in contents]
    with pytest.raises(DataError) as caught:
        native.cut_regions(contents, boxes, targets)
    assert caught.value.row == 1
