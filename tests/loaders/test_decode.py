"""Decoding: the pixels that Pillow and torch compute, for any file, or damage by name."""

from __future__ import annotations

import io
import random
from typing import Any

import numpy as np
import pytest
from fakes.pictures import encoded as _encoded
from fakes.pictures import picture as _picture
from fakes.pictures import samples_of as _samples
from PIL import Image

from iopipe.errors import DataError
from iopipe.loaders.decode import make_decoder
from iopipe.stages import ImageOptions


def _decoded(content: bytes, name: str = "jpg", **options: Any) -> Any:
    samples = _samples([content], name=name)
    return make_decoder(ImageOptions(**options))(samples).columns[name][0]


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


# ---- damage ----------------------------------------------------------------------------


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
