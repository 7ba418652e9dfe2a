"""Images of every kind that datasets hold, made here; real ones beside them where
IOPIPE_IMAGES names a folder."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from iopipe.protocols import Samples

Pixels = np.ndarray[Any, np.dtype[np.uint8]]
_MAX_REAL = 64


def picture(height: int, width: int, seed: int = 0) -> Image.Image:
    """Smooth shapes and some noise: compresses like a photograph."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (max(2, height // 24), max(2, width // 24), 3))
    image = Image.fromarray(coarse.astype(np.uint8)).resize((width, height), Image.BICUBIC)
    noise = generator.integers(-9, 10, (height, width, 3))
    return Image.fromarray((np.asarray(image).astype(int) + noise).clip(0, 255).astype(np.uint8))


def encoded(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    raw = io.BytesIO()
    image.save(raw, kind, **options)
    return raw.getvalue()


def _turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(picture(190, 310, 5), exif=exif)


def sound_pictures() -> dict[str, bytes]:
    """Name to content; all of them can be decoded."""
    deep = np.linspace(0, 65535, 71 * 83, dtype=np.uint16).reshape(71, 83)
    made = {
        "plain": encoded(picture(375, 500), quality=92),
        "full chroma": encoded(picture(200, 280, 1), subsampling=0),
        "half chroma": encoded(picture(201, 283, 2), subsampling=1),
        "progressive": encoded(picture(240, 320, 3), progressive=True),
        "grey": encoded(picture(150, 220, 4).convert("L")),
        "cmyk": encoded(picture(160, 210, 6).convert("CMYK")),
        "turned": _turned(),
        "one pixel": encoded(picture(1, 1)),
        "one row": encoded(picture(1, 300, 7)),
        "huge": encoded(picture(1500, 2600, 8)),
        "png": encoded(picture(120, 140, 9), "PNG"),
        "16-bit png": encoded(Image.fromarray(deep), "PNG"),
        "palette png": encoded(picture(90, 130, 10).quantize(32), "PNG"),
        "alpha png": encoded(picture(60, 70, 11).convert("RGBA"), "PNG"),
        "gif": encoded(picture(80, 60, 12).quantize(64), "GIF"),
        "tiff": encoded(picture(70, 90, 13), "TIFF"),
        "jpeg 2000": encoded(picture(77, 93, 16), "JPEG2000"),
        "webp": encoded(picture(88, 99, 14), "WEBP", lossless=True),
        "bmp": encoded(picture(40, 50, 15), "BMP"),
    }
    return {**made, **_real_pictures()}


def _real_pictures() -> dict[str, bytes]:
    folder = os.environ.get("IOPIPE_IMAGES")
    if folder is None:
        return {}
    return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())[:_MAX_REAL]}


def damaged_pictures() -> dict[str, bytes]:
    """Name to content; none of them can be decoded."""
    good = encoded(picture(100, 140))
    progressive = encoded(picture(100, 140), progressive=True)
    return {
        "truncated": good[: len(good) // 2],
        "truncated progressive": progressive[: len(progressive) // 2],
        "corrupt header": b"\xff\xd8\xff" + bytes(range(256)) * 8 + b"\xff\xd9",
        "no image": b"nothing of the kind" * 20,
        "empty": b"",
        "truncated jpeg 2000": encoded(picture(100, 140), "JPEG2000")[:9000],
        "truncated png": encoded(picture(100, 140), "PNG")[:9000],
    }


def samples_of(
    contents: Sequence[bytes | memoryview],
    *,
    first: int = 0,
    name: str = "jpg",
    seed: int = 3,
    epoch: int = 1,
) -> Samples:
    """A chunk as the reader gives it: views, seed and epoch set."""
    return Samples(
        ids=np.arange(first, first + len(contents)),
        keys=[str(number) for number in range(len(contents))],
        columns={name: [memoryview(content) for content in contents]},
        seed=seed,
        epoch=epoch,
    )


def resized(pixels: Pixels, size: tuple[int, int]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Antialiased bilinear in float64."""
    planes = torch.from_numpy(pixels.astype(np.float64)).permute(2, 0, 1)[None]
    result = torch.nn.functional.interpolate(planes, size, mode="bilinear", antialias=True)
    return result[0].permute(1, 2, 0).numpy()
