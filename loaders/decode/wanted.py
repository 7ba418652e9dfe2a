"""What every engine is asked for: the one numerics contract.

Stands between the encoded images of a chunk and the engine that decodes them.  Invariant: the
same bytes, id, seed, epoch and options ask for the same region and flip, whatever the engine.

The contract: the image is decoded at full resolution to 8-bit RGB, as it is stored (EXIF
orientation is not applied); the region is cut out; a bilinear filter whose support grows with
the reduction, cut off at the region's borders, brings it to the size; then left and right are
swapped where it is mirrored.  Resizing is within one unit of exact arithmetic everywhere.  What
differs is the JPEG decoder under it:

    cpu exact, dali on the CPU       libjpeg-turbo, accurate transforms: the reference
    cpu scaled                       smaller transforms: close for photographs, not bounded
                                     (bench/results/decode_parity_cpu.json)
    dali, nvimgcodec, hybrid on GPU  nvJPEG with interpolated chroma: not the same bits; the bound
                                     is the one of tests/loaders/test_engines_gpu.py

Damage: 'cpu' names every image whose data libjpeg or Pillow complains about, down to the last row
that is wanted.  The other decoders see less: a JPEG that was cut off is found out beforehand, and
one that they refuse is given to the CPU, but bits that changed within a file may go unseen;
checksums (`iopipe verify`, `verify=`) are what finds those.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from iopipe.errors import DataError
from iopipe.loaders.decode import crops
from iopipe.loaders.decode.images import EncodedImage, read_header
from iopipe.protocols import BoolArray, Column, Int64Array, Samples
from iopipe.stages import ImageOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """The images of a chunk and what is to become of them, row by row."""

    images: Sequence[EncodedImage]
    sizes: Int64Array
    """[n, 2]: height, width as stored."""
    boxes: crops.Boxes
    mirrored: BoolArray

    def __len__(self) -> int:
        return len(self.images)


def read_headers(column: Column, options: ImageOptions) -> list[EncodedImage]:
    """The header of every row; a `DataError` names the row that has none or is too large."""
    images = []
    for row, raw in enumerate(column):
        with damage_at(row):
            images.append(read_header(raw, max_pixels=options.max_pixels))
    return images


def what_is_wanted(column: Column, samples: Samples, options: ImageOptions) -> Wanted:
    """Headers are read, regions and flips drawn."""
    images = read_headers(column, options)
    sizes = np.array([(image.height, image.width) for image in images], np.int64).reshape(-1, 2)
    return Wanted(
        images=images,
        sizes=sizes,
        boxes=crops.boxes(samples, sizes, options),
        mirrored=crops.flips(samples, options),
    )


@contextmanager
def damage_at(row: int) -> Iterator[None]:
    """Damage found inside is that of this row."""
    try:
        yield
    except DataError as error:
        error.row = row
        raise
