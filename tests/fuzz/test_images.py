"""Damaged images and bombs: pixels, or a typed error before memory or time is spent."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from fuzz import bombs
from fuzz.examples import LONG, SHORT, fuzz
from fuzz.jail import Jail
from fuzz.mutate import File, files, mutated
from hypothesis import strategies as st

import iopipe
from iopipe.errors import DataError
from iopipe.loaders.decode.images import read_header
from iopipe.readers import DatasetWriter
from iopipe.stages import ImageOptions

MAX_PIXELS = 1 << 20
_KINDS: dict[str, dict[str, Any]] = {
    "JPEG": {},
    "progressive JPEG": {"progressive": True},
    "PNG": {},
    "WEBP": {},
    "lossless WEBP": {"lossless": True},
    "GIF": {},
    "BMP": {},
    "PPM": {},
    "TIFF": {},
    "deflated TIFF": {"compression": "tiff_adobe_deflate"},
    "JPEG2000": {},
}
_SIZES = [(16_000, 11_000), (65_000, 65_000), (16_777_215, 200), (1 << 11, 1 << 11)]
_BOMBS = {
    "jpg": [bombs.jpeg],
    "jp2": [bombs.jpeg2000],
    "png": [bombs.png],
    "gif": [bombs.gif],
    "webp": [bombs.webp, bombs.animated_webp, bombs.tiny_webp],
    "bmp": [bombs.bmp],
    "ppm": [bombs.ppm],
    "tiff": [bombs.tiff, bombs.tiled_tiff],
}


def _decode(jail: Jail, content: bytes, name: str, size: int | None = None) -> dict[str, Any]:
    path = jail.folder / "field"
    path.write_bytes(content)
    answer = jail.examine(
        operation="decode", path=str(path), name=name, size=size, max_pixels=MAX_PIXELS
    )
    assert not answer["complaints"], "\n".join(answer["complaints"])
    return answer


@pytest.mark.parametrize("size", [None, 16])
@pytest.mark.parametrize("kind", _KINDS)
def test_honest_images_are_decoded_in_the_jail(jail: Jail, kind: str, size: int | None) -> None:
    answer = _decode(jail, bombs.encoded(kind.split()[-1], **_KINDS[kind]), "jpg", size)
    assert answer["shape"] == ([48, 64, 3] if size is None else [16, 16, 3])


@pytest.mark.parametrize("num_examples", [SHORT, LONG])
@pytest.mark.parametrize("kind", _KINDS)
def test_damaged_images(jail: Jail, kind: str, num_examples: int) -> None:
    content = bombs.encoded(kind.split()[-1], **_KINDS[kind])

    def check(damaged: File, size: int | None) -> None:
        answer = _decode(jail, damaged, "jpg", size)
        if not answer["refused"]:
            height, width, channels = answer["shape"]
            assert channels == 3 and 0 < height * width <= MAX_PIXELS

    damage = files(mutated(content, range(0, len(content), 97)))
    fuzz(check, num_examples, damaged=damage, size=st.sampled_from([None, 16]))


@pytest.mark.parametrize("size", _SIZES, ids=str)
@pytest.mark.parametrize(
    "bomb", [make for makers in _BOMBS.values() for make in makers], ids=lambda make: make.__name__
)
def test_bombs_are_refused_before_anything_is_allocated(
    jail: Jail, bomb: Any, size: tuple[int, int]
) -> None:
    """The jail would complain of an allocation, or die of it."""
    refused = _decode(jail, bomb(*size), "jpg")["refused"]
    assert re.search(r"DataError.*(max_pixels|too large)", refused)


@pytest.mark.parametrize("size", _SIZES, ids=str)
def test_a_codestream_larger_than_its_container_says_is_refused(
    jail: Jail, size: tuple[int, int]
) -> None:
    assert "DataError" in _decode(jail, bombs.jpeg2000(*size, lies=True), "jpg", 16)["refused"]


@pytest.mark.parametrize("suffix", _BOMBS)
def test_bombs_do_not_pass_the_pipeline(tmp_path: Path, suffix: str) -> None:
    (bomb, *_) = _BOMBS[suffix]
    with DatasetWriter(tmp_path) as writer:
        writer.write({"__key__": "good", suffix: bombs.encoded("PNG")})
        writer.write({"__key__": "bomb", suffix: bomb(2000, 3000)})
    options = ImageOptions(size=(8, 8), max_pixels=MAX_PIXELS)
    pipeline = iopipe.read(tmp_path).decode(options).batch(2)
    with pytest.raises(DataError, match="max_pixels") as caught, pipeline.run() as run:
        list(run)
    assert caught.value.key == "bomb"
    with iopipe.read(tmp_path, on_error="skip").decode(options).batch(2).run() as run:
        (batch,) = run
    assert batch["__key__"] == ["good"]


def test_a_jpeg_of_a_thousand_scans_is_refused() -> None:
    """libjpeg would go over all coefficients for each of them."""
    content = bombs.encoded("JPEG", progressive=True)
    last = content[content.rindex(b"\xff\xda") : -2]
    bomb = content[:-2] + last * 1000 + content[-2:]
    assert read_header(memoryview(content), max_pixels=64 * 48).pixels().shape == (48, 64, 3)
    with pytest.raises(DataError, match="scans"):
        read_header(memoryview(bomb), max_pixels=64 * 48)


@pytest.mark.parametrize("num_items", [1000, 1 << 30, 1 << 40, 1 << 61])
def test_arrays_that_claim_more_than_their_bytes_are_refused(jail: Jail, num_items: int) -> None:
    assert "cannot hold" in _decode(jail, bombs.npy(num_items), "npy")["refused"]


@pytest.mark.parametrize("num_examples", [SHORT, LONG])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("npy", bombs.npy(3) + bytes(24)),
        ("json", b'{"a": [1, -2.5e3, true, null, "\\u00e4"], "b": {"c": []}}'),
        ("cls", b"1234"),
        ("txt", "grün".encode()),
    ],
    ids=["npy", "json", "cls", "txt"],
)
def test_damaged_fields(jail: Jail, name: str, content: bytes, num_examples: int) -> None:
    assert not _decode(jail, content, name)["refused"]

    def check(damaged: bytes) -> None:
        _decode(jail, damaged, name)

    fuzz(check, num_examples, damaged=mutated(content))
