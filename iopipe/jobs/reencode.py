"""Images made smaller before they are stored.

A transform.  Invariant: an image is looked at only through the codecs listed here, its size
is checked before a pixel is decoded, and one that is small enough already is not touched.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from PIL import Image, ImageOps

from iopipe.errors import DataError, PipelineError
from iopipe.jobs.transform import Outcome, Sample, Transform

_FIELDS = ("jpg", "jpeg", "image", "png", "webp", "tif", "tiff", "bmp", "ppm")
_CODECS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "PPM")
_QUALITY = 90
_ORIENTATION = 0x0112
"""EXIF's tag; from 5 on width and height change places."""
_MAX_PIXELS = 1 << 28


def make_images(resize: int | None = None, quality: int | None = None) -> Transform:
    """A transform that stores every image as a JPEG of `quality` whose shorter side is at
    most `resize` pixels, upright as its EXIF orientation says."""
    if resize is not None and resize < 1:
        raise PipelineError(f"resize is {resize}; give the pixels of the shorter side")
    if quality is not None and not 1 <= quality <= 100:
        raise PipelineError(f"quality is {quality}; give 1 to 100")

    def transform(samples: Sequence[Sample]) -> list[Outcome]:
        return [_outcome(sample, resize, quality) for sample in samples]

    return transform


def _outcome(sample: Sample, resize: int | None, quality: int | None) -> Outcome:
    fields = [name for name in sample if name.rsplit(".", 1)[-1] in _FIELDS]
    if not fields:
        return DataError(f"it has no image among its fields {sorted(sample)}")
    made: Sample = {}
    try:
        for name, value in sample.items():
            if name in fields:
                made["jpg" if len(fields) == 1 else name] = _encoded(value, resize, quality)
            else:
                made[name] = value
    except DataError as error:
        return error
    return [made]


def _encoded(content: Any, resize: int | None, quality: int | None) -> bytes:
    if not isinstance(content, bytes | bytearray | memoryview):
        raise DataError(f"its image is a {type(content).__name__}, not bytes")
    raw = bytes(content)
    try:
        with Image.open(io.BytesIO(raw), formats=_CODECS) as image:
            width, height = image.size
            if width * height > _MAX_PIXELS:
                raise DataError(f"the image is {width} x {height} pixels, too many to be sane")
            is_small = resize is None or min(width, height) <= resize
            if is_small and quality is None and image.format == "JPEG":
                return raw
            return _jpeg(image, None if is_small else resize, quality or _QUALITY)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"the image cannot be decoded: {error}") from error


def _jpeg(image: Image.Image, resize: int | None, quality: int) -> bytes:
    size = image.size
    if resize is not None:
        scale = resize / min(size)
        size = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
        image.draft("RGB", (2 * size[0], 2 * size[1]))  # libjpeg's own scaling, for JPEG only
    is_turned = image.getexif().get(_ORIENTATION, 1) >= 5
    pixels = ImageOps.exif_transpose(image).convert("RGB")
    if resize is not None:
        pixels = pixels.resize(size[::-1] if is_turned else size, Image.Resampling.LANCZOS)
    encoded = io.BytesIO()
    pixels.save(encoded, "JPEG", quality=quality)
    return encoded.getvalue()
