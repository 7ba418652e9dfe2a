"""JPEGs without a DCT, which newer versions of libjpeg-turbo decode: their pixels, bit by bit."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from iopipe.loaders.decode import make_decoder
from iopipe.loaders.decode.native import cut_regions
from iopipe.protocols import Samples
from iopipe.stages import ImageOptions


def _lossless(pixels: np.ndarray, *, ac_table: int = 0) -> bytes:
    """Each value as its difference from the one on the left.  Source: ITU-T T.81, annex H.

    `ac_table` is a number that a decoder of such a scan does not use, nor check.
    """
    height, width, channels = pixels.shape
    numbers = range(1, channels + 1)
    frame = struct.pack(">BHHB", 8, height, width, channels)
    frame += b"".join(bytes([number, 0x11, 0]) for number in numbers)
    head = bytes([channels, *(one for number in numbers for one in (number, ac_table))])
    segments = [
        (0xEE, b"Adobe\0\x64\0\0\0\0\0"),  # colours are not transformed
        (0xC4, bytes([0, 0, 0, 0, 9, *bytes(12), *range(9)])),  # nine codes of four bits
        (0xC3, frame),
        (0xDA, head + b"\x01\0\0"),
    ]
    return b"".join([b"\xff\xd8", *map(_segment, segments), _scan(pixels.astype(int)), b"\xff\xd9"])


def _segment(segment: tuple[int, bytes]) -> bytes:
    marker, body = segment
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def _scan(pixels: np.ndarray) -> bytes:
    expected = np.zeros_like(pixels)
    expected[:, 1:] = pixels[:, :-1]
    expected[1:, 0] = pixels[:-1, 0]
    expected[0, 0] = 128
    coded = []
    for difference in (pixels - expected).ravel().tolist():
        size = abs(difference).bit_length()
        value = difference if difference > 0 else difference + (1 << size) - 1
        coded.append(f"{size:04b}" + (f"{value:0{size}b}" if size else ""))
    bits = "".join(coded)
    bits += "1" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(4).integers(0, 256, (40, 200, 3), dtype=np.uint8)


def test_the_encoder_of_these_tests_is_right(pixels: np.ndarray) -> None:
    content = _lossless(pixels)
    assert np.array_equal(simplejpeg.decode_jpeg(content, "RGB"), pixels)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(content))), pixels)


# Tables beyond the fourth were written behind the decoder's memory.
@pytest.mark.parametrize("ac_table", [0, 3, 9, 15])
@pytest.mark.parametrize(
    "box", [(0, 0, 40, 200), (3, 0, 20, 200), (0, 80, 20, 30), (39, 199, 1, 1)], ids=str
)
def test_regions_are_those_of_the_whole_image(
    pixels: np.ndarray, box: tuple[int, int, int, int], ac_table: int
) -> None:
    top, left, height, width = box
    found = np.full((height, width, 3), 0xA5, np.uint8)
    content = memoryview(_lossless(pixels, ac_table=ac_table))
    cut_regions([content], np.array([box]), [found])
    assert np.array_equal(found, pixels[top : top + height, left : left + width])


@pytest.mark.parametrize("fidelity", ["exact", "scaled"])
def test_the_decode_stage_takes_them(pixels: np.ndarray, fidelity: str) -> None:
    """Scaled as well, though there is no DCT to scale."""
    content = [memoryview(_lossless(pixels[:, :40]))]
    samples = Samples(ids=np.arange(1), keys=["a"], columns={"jpg": content})
    decode = make_decoder(ImageOptions(size=(10, 10), crop="center", fidelity=fidelity))
    (found,) = decode(samples).columns["jpg"]
    with Image.fromarray(pixels[:, :40]) as image:
        expected = np.asarray(image.resize((10, 10), Image.Resampling.BILINEAR))
    assert np.abs(found.astype(int) - expected).max() <= 1
