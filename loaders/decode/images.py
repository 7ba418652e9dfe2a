"""Bytes of an image become 8-bit RGB pixels.

Stands under the decode stage.  Invariant: an image is decoded whole and right or is a
`DataError`; its size is known, and checked, before any pixel is.

JPEG goes through libjpeg-turbo (simplejpeg), everything else through Pillow; both let go of
the interpreter lock.  The measurements behind the choice are in bench/results.
EXIF orientation is not applied: neither do Pillow's open and torchvision's decode_jpeg by
default (OpenCV, DALI 2 and nvImageCodec do; the engines that use those two tell them not to).
"""

from __future__ import annotations

import io
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image

from iopipe.errors import DataError
from iopipe.loaders.decode.limits import check_scans, tile_pixels, webp_pixels

Pixels = npt.NDArray[np.uint8]
"""[height, width, 3]"""

_JPEG_START = b"\xff\xd8\xff"
# Pillow knows more, and would start Ghostscript for bytes that say they are PostScript.
_PILLOW_FORMATS = ("PNG", "WEBP", "TIFF", "GIF", "BMP", "PPM", "JPEG2000")
# Of these Pillow's mode I is 16-bit grey, stretched to the whole range; of others 32-bit.
_GREY_16_FORMATS = ("PNG", "PPM")
_PLAIN_COLOURS = ("Gray", "RGB", "YCbCr")
_local = threading.local()


@dataclass(frozen=True, slots=True)
class EncodedImage:
    """An image whose header was read; `pixels` does the work."""

    content: memoryview
    height: int
    width: int
    decoder: Any
    """None for JPEG, else Pillow's image."""
    is_plain: bool = False
    """Whether it is a JPEG in grey or in three colours, as `native` takes them."""

    def pixels(self, *, reusing: bool = False, at_least: tuple[int, int] | None = None) -> Pixels:
        """Decode.

        With `reusing` the result lies in a buffer of this thread, valid until its next
        call: an allocation of this size costs a page fault for every 4 KiB.  `at_least`
        (height, width) lets a JPEG come out smaller, by DCT-domain scaling to a half or
        less, and by libjpeg's faster, less exact transforms.
        """
        try:
            if self.decoder is not None:
                return _converted(self.decoder)
            return self._jpeg(reusing, at_least)
        except (ValueError, OSError, SyntaxError) as error:
            raise DataError(f"the image cannot be decoded: {error}") from error

    def _is_twice(self, size: tuple[int, int]) -> bool:
        return 2 * size[0] <= self.height and 2 * size[1] <= self.width

    def _jpeg(self, reusing: bool, at_least: tuple[int, int] | None) -> Pixels:
        is_scaled = at_least is not None
        options: dict[str, Any] = {}
        if at_least is not None and self._is_twice(at_least):
            options = {"min_height": at_least[0], "min_width": at_least[1], "min_factor": 2}
        if reusing:
            options["buffer"] = scratch("jpeg", self.height * self.width * 3)
        pixels: Pixels = simplejpeg.decode_jpeg(
            self.content, "RGB", fastdct=is_scaled, fastupsample=is_scaled, **options
        )
        return pixels


def read_header(content: Any, *, max_pixels: int) -> EncodedImage:
    """Read the header of an image and refuse what is too large to be an honest one."""
    view = memoryview(content)
    num_canvas_pixels = webp_pixels(view)
    _check(num_canvas_pixels, f"a canvas of {num_canvas_pixels}", max_pixels)
    num_tile_pixels = 0
    try:
        if bytes(view[:3]) == _JPEG_START:
            height, width, colours, _ = simplejpeg.decode_jpeg_header(view)
            image = EncodedImage(view, height, width, None, colours in _PLAIN_COLOURS)
        else:
            opened = Image.open(io.BytesIO(view), formats=_PILLOW_FORMATS)
            num_tile_pixels = tile_pixels(opened)
            image = EncodedImage(view, opened.height, opened.width, opened)
    except (ValueError, OSError, SyntaxError) as error:
        raise DataError(f"it is no image that can be decoded: {error}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"the image is too large: {error}") from error
    num_pixels = image.height * image.width
    _check(num_pixels, f"{image.width} x {image.height}", max_pixels)
    _check(num_tile_pixels, f"tiles of {num_tile_pixels}", max_pixels)
    if image.decoder is None:
        check_scans(view, num_pixels, max_pixels)
    return image


def _check(num_pixels: int, shown: str, max_pixels: int) -> None:
    if num_pixels > max_pixels:
        raise DataError(
            f"the image has {shown} pixels, more than max_pixels={max_pixels}; "
            "raise max_pixels if it is meant to be so large"
        )


def scratch(name: str, num_bytes: int) -> npt.NDArray[np.uint8]:
    """A buffer of this thread of at least `num_bytes`, the same one every time."""
    buffer: npt.NDArray[np.uint8] | None = getattr(_local, name, None)
    if buffer is None or len(buffer) < num_bytes:
        buffer = np.empty(num_bytes + num_bytes // 4, np.uint8)
        setattr(_local, name, buffer)
    return buffer


def _converted(image: Image.Image) -> Pixels:
    if image.mode == "F" or (image.mode == "I" and image.format not in _GREY_16_FORMATS):
        raise ValueError(
            f"pixels of mode {image.mode!r} have no range that 8 bits could stand for; "
            "store them as a npy field"
        )
    if image.mode.startswith("I"):  # 16-bit grey: the high byte, as for 16-bit colour
        high = (np.asarray(image) >> 8).astype(np.uint8)
        return np.repeat(high[..., None], 3, axis=2)
    if "transparency" in image.info:  # straight to RGB, Pillow warns about palettes with alpha
        image = image.convert("RGBA")
    return np.array(image.convert("RGB"))
