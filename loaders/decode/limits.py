"""How much memory and work a few bytes ask for, before a library gives it to them.

Stands in front of Pillow, libjpeg and numpy, which for some headers start before anybody can
look at a size.  Invariant: only headers are read here, and they are as untrusted as the rest.

Sources: ITU-T T.81 (JPEG), the WebP container specification with RFC 6386 (VP8) and the
specification of WebP's lossless bitstream (VP8L), TIFF 6.0, numpy.lib.format.
"""

from __future__ import annotations

import io
import math
import struct
from typing import Any

import numpy as np

from iopipe.errors import DataError

_TILE_WIDTH, _TILE_LENGTH = 322, 323
_WEBP_HEADER_BYTES = 30
_START_OF_SCAN = 0xDAFF
"""As a little-endian number."""
_SCAN_BYTES = 10
"""Of the header of the smallest scan."""
_MAX_SCANS = 64


def webp_pixels(content: memoryview) -> int:
    """Pixels of the canvas, two of which Pillow's decoder allocates when it opens the image;
    0 for what is no WebP."""
    head = bytes(content[:_WEBP_HEADER_BYTES]).ljust(_WEBP_HEADER_BYTES, b"\0")
    if (head[:4], head[8:12]) != (b"RIFF", b"WEBP"):
        return 0
    kind = head[12:16]
    if kind == b"VP8X":
        width, height = head[24:27], head[27:30]
        return (int.from_bytes(width, "little") + 1) * (int.from_bytes(height, "little") + 1)
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", head, 21)
        return int((bits & 0x3FFF) + 1) * int((bits >> 14 & 0x3FFF) + 1)
    width, height = struct.unpack_from("<HH", head, 26)
    return int(width & 0x3FFF) * int(height & 0x3FFF)


def check_scans(content: memoryview, num_pixels: int, max_pixels: int) -> None:
    """A `DataError` where a JPEG has far more scans than an encoder would make.

    Every scan goes over all coefficients, however few bytes it has: 130 KB with 1,000 scans
    of 16 megapixels took 13 s.  Encoders make about ten.  An image of `max_pixels` may have
    64, a smaller one more.
    """
    allowed = _MAX_SCANS * max_pixels // max(1, num_pixels)
    if len(content) // _SCAN_BYTES <= allowed:
        return
    num_scans = _num_pairs(content, _START_OF_SCAN)  # entropy-coded data never has this one
    if num_scans > allowed:
        raise DataError(
            f"the image has {num_scans} scans, allowed for {num_pixels} pixels are {allowed}; "
            "raise max_pixels if it is honest"
        )


def _num_pairs(content: memoryview, pair: int) -> int:
    """How often two bytes stand side by side; large images take milliseconds, so not by a
    method of bytes, which would keep the interpreter lock."""
    views = (content[first : first + (len(content) - first) // 2 * 2] for first in (0, 1))
    return sum(int(np.count_nonzero(np.frombuffer(view, "<u2") == pair)) for view in views)


def tile_pixels(image: Any) -> int:
    """Pixels of a TIFF's tiles, each of which is unpacked as a whole, however few of them
    belong to the image; 0 where there are none."""
    tags = getattr(image, "tag_v2", {})
    sides = [tags.get(tag, 0) for tag in (_TILE_WIDTH, _TILE_LENGTH)]
    if not all(isinstance(side, int) for side in sides):
        raise ValueError(f"its tiles have the size {sides}")
    return math.prod(sides)


def check_npy(raw: bytes) -> None:
    """A `ValueError` where an array claims more than its bytes, or what is no array."""
    file = io.BytesIO(raw)
    version = np.lib.format.read_magic(file)
    # 3.0 differs from 2.0 in the encoding of names, which do not matter here.
    is_first = version == (1, 0)
    read = np.lib.format.read_array_header_1_0 if is_first else np.lib.format.read_array_header_2_0
    try:
        shape, _, dtype = read(file)
    except (IndexError, TypeError, MemoryError) as error:  # of a header that is no dictionary
        raise ValueError(f"its header is none: {type(error).__name__} {error}") from error
    if not all(type(length) is int and 0 <= length < 1 << 63 for length in shape):
        raise ValueError(f"{list(shape)} is no shape")
    if math.prod(shape) * max(1, dtype.itemsize) > len(raw):
        raise ValueError(f"its {len(raw)} bytes cannot hold {dtype} {list(shape)}")
