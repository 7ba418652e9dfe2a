"""The engine 'cpu': images become pixels by libjpeg-turbo and Pillow.

Stands under the decode stage, and under the other engines for what those do not take.
Invariant: stateless and thread-safe.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from iopipe.errors import DataError
from iopipe.loaders.decode import crops
from iopipe.loaders.decode.images import EncodedImage, Pixels
from iopipe.loaders.decode.native import decode_regions, why_not
from iopipe.loaders.decode.resize import crop_and_resize
from iopipe.loaders.decode.wanted import Wanted, damage_at, read_headers, what_is_wanted
from iopipe.protocols import Column, Samples
from iopipe.stages import ImageOptions


def decode_images(name: str, column: Column, samples: Samples, options: ImageOptions) -> Column:
    """The pixels of a column of encoded images."""
    if options.size is None:
        return _whole_images(column, samples, options)
    wanted = what_is_wanted(column, samples, options)
    result = samples.empty(name, (*options.size, 3), np.uint8)
    is_scaled = options.fidelity == "scaled"
    fill_rows(wanted, range(len(wanted)), result, is_scaled=is_scaled)
    return result


def fill_rows(
    wanted: Wanted, rows: Sequence[int], result: Pixels, *, is_scaled: bool = False
) -> None:
    """Decode, crop, resize and flip these rows into `result` [n, height, width, 3]."""
    native = _native_rows(wanted, rows)
    _decoded_natively(wanted, native, result, is_scaled)
    for row in sorted({*rows} - {*native}):
        with damage_at(row):
            _resized(wanted, row, result[row], is_scaled)


def region_of(wanted: Wanted, row: int) -> Pixels:
    """The region of a row as it is in the decoded image; a view where that is whole."""
    top, left, height, width = wanted.boxes[row].tolist()
    with damage_at(row):
        pixels = wanted.images[row].pixels()
    return pixels[top : top + height, left : left + width]


def _whole_images(column: Column, samples: Samples, options: ImageOptions) -> Column:
    mirrored = crops.flips(samples, options)
    whole: list[Pixels] = []
    for row, image in enumerate(read_headers(column, options)):
        with damage_at(row):
            whole.append(_whole(image, bool(mirrored[row])))
    return whole


def _native_rows(wanted: Wanted, rows: Sequence[int]) -> list[int]:
    plain = [row for row in rows if wanted.images[row].is_plain]
    return plain if plain and why_not() is None else []


def _decoded_natively(wanted: Wanted, rows: list[int], result: Pixels, is_scaled: bool) -> None:
    try:
        decode_regions(
            [wanted.images[row].content for row in rows],
            wanted.boxes[rows],
            wanted.mirrored[rows],
            [result[row] for row in rows],
            is_scaled=is_scaled,
        )
    except DataError as error:
        error.row = rows[error.row or 0]
        raise


def _whole(image: EncodedImage, flip: bool) -> Pixels:
    pixels = image.pixels()
    return np.ascontiguousarray(pixels[:, ::-1]) if flip else pixels


def _resized(wanted: Wanted, row: int, target: Pixels, is_scaled: bool) -> None:
    image = wanted.images[row]
    top, left, height, width = wanted.boxes[row].tolist()
    at_least = None
    if is_scaled:
        # The smallest whole image in which the region still has the target's resolution.
        at_least = (
            -(-image.height * target.shape[0] // height),
            -(-image.width * target.shape[1] // width),
        )
    pixels = image.pixels(reusing=True, at_least=at_least)
    top, bottom = _rescaled(top, top + height, image.height, pixels.shape[0])
    left, right = _rescaled(left, left + width, image.width, pixels.shape[1])
    box = (top, left, bottom - top, right - left)
    crop_and_resize(pixels, box, target, mirrored=bool(wanted.mirrored[row]))


def _rescaled(start: int, end: int, length: int, new_length: int) -> tuple[int, int]:
    """Both edges of a region of an axis, to the nearest pixel of the rescaled axis.

    Edges, not edge and length: rounded each for itself, the two errors would add up.
    """
    scale = new_length / length
    start = min(round(start * scale), new_length - 1)
    return start, max(start + 1, round(end * scale))
