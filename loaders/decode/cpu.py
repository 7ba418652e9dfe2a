"""The decode stage on the CPU: a function from chunk to chunk.

Stands between the reader and the collation.  Invariant: stateless and thread-safe; what a
sample becomes depends on its bytes, its id, seed and epoch alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import numpy as np

from iopipe.errors import DataError, PipelineError
from iopipe.loaders.decode import crops
from iopipe.loaders.decode.fields import field_decoder
from iopipe.loaders.decode.images import EncodedImage, Pixels, read_header
from iopipe.loaders.decode.resize import crop_and_resize
from iopipe.protocols import Column, Ragged, Samples
from iopipe.stages import ImageOptions

IMAGE_EXTENSIONS = frozenset(
    ("bmp", "gif", "image", "jpeg", "jpg", "pbm", "pgm", "png", "ppm", "tif", "tiff", "webp")
)


def make_decoder(options: ImageOptions) -> Callable[[Samples], Samples]:
    """A stage function that decodes every field by its extension.

    Images become uint8 RGB: one array [n, height, width, 3] where `options.size` is given,
    else a list of [h, w, 3]; alpha is dropped, 16-bit pixels keep their high byte, of an
    animation the first frame counts.  cls and its like become int64 [n], txt str, json
    objects, npy arrays; other fields, and columns that hold no bytes, stay as they are.
    """
    _check(options)
    return partial(_decoded, options=options)


def _decoded(samples: Samples, *, options: ImageOptions) -> Samples:
    return samples.made(
        {name: _named(name, column, samples, options) for name, column in samples.columns.items()}
    )


def _check(options: ImageOptions) -> None:
    if options.size is None and (options.crop != "none" or options.fidelity == "scaled"):
        raise PipelineError("crop and fidelity='scaled' need a size; give decode(size=...)")
    if options.size is not None and min(options.size) < 1:
        raise PipelineError(f"size is {options.size}; height and width must be at least 1")
    if options.crop not in ("random", "center", "none"):
        raise PipelineError(f"crop is {options.crop!r}; use 'random', 'center' or 'none'")
    if options.fidelity not in ("exact", "scaled"):
        raise PipelineError(f"fidelity is {options.fidelity!r}; use 'exact' or 'scaled'")
    for name, (low, high) in (("scale", options.scale), ("ratio", options.ratio)):
        if not 0 < low <= high:
            raise PipelineError(f"{name} is ({low}, {high}); give 0 < low <= high")


def _named(name: str, column: Column, samples: Samples, options: ImageOptions) -> Column:
    try:
        return _column(name, column, samples, options)
    except DataError as error:
        error.reason = f"field {name!r}: {error.reason}"
        raise


def _column(name: str, column: Column, samples: Samples, options: ImageOptions) -> Column:
    if not _holds_bytes(column):
        return column
    if name.rsplit(".", 1)[-1] in IMAGE_EXTENSIONS:
        return _images(name, column, samples, options)
    decoder = field_decoder(name)
    return column if decoder is None else decoder(column)


def _holds_bytes(column: Column) -> bool:
    if isinstance(column, Ragged):  # rows of numbers may carry a name like 'text', too
        return column.values.dtype == np.uint8
    if isinstance(column, np.ndarray):
        return False
    return len(column) > 0 and isinstance(column[0], bytes | bytearray | memoryview)


def _images(name: str, column: Column, samples: Samples, options: ImageOptions) -> Column:
    encoded = []
    for row, raw in enumerate(column):
        with _at(row):
            encoded.append(read_header(raw, max_pixels=options.max_pixels))
    mirrored = crops.flips(samples, options).tolist()
    if options.size is None:
        whole: list[Pixels] = []
        for row, image in enumerate(encoded):
            with _at(row):
                whole.append(_whole(image, mirrored[row]))
        return whole
    sizes = np.array([(image.height, image.width) for image in encoded], np.int64)
    boxes = crops.boxes(samples, sizes, options).tolist()
    result = samples.empty(name, (*options.size, 3), np.uint8)
    for row, image in enumerate(encoded):
        with _at(row):
            _resized(image, boxes[row], mirrored[row], options, result[row])
    return result


@contextmanager
def _at(row: int) -> Iterator[None]:
    """Damage found inside is that of this row."""
    try:
        yield
    except DataError as error:
        error.row = row
        raise


def _whole(image: EncodedImage, flip: bool) -> Pixels:
    pixels = image.pixels()
    return np.ascontiguousarray(pixels[:, ::-1]) if flip else pixels


def _resized(
    image: EncodedImage,
    box: Sequence[int],
    mirrored: bool,
    options: ImageOptions,
    target: Pixels,
) -> None:
    top, left, height, width = box
    at_least = None
    if options.fidelity == "scaled":
        # The smallest whole image in which the region still has the target's resolution.
        at_least = (
            -(-image.height * target.shape[0] // height),
            -(-image.width * target.shape[1] // width),
        )
    pixels = image.pixels(reusing=True, at_least=at_least)
    top, bottom = _rescaled(top, top + height, image.height, pixels.shape[0])
    left, right = _rescaled(left, left + width, image.width, pixels.shape[1])
    crop_and_resize(pixels, (top, left, bottom - top, right - left), target, mirrored=mirrored)


def _rescaled(start: int, end: int, length: int, new_length: int) -> tuple[int, int]:
    """Both edges of a region of an axis, to the nearest pixel of the rescaled axis.

    Edges, not edge and length: rounded each for itself, the two errors would add up.
    """
    scale = new_length / length
    start = min(round(start * scale), new_length - 1)
    return start, max(start + 1, round(end * scale))
