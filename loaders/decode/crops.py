"""Which part of each image is kept, and whether it is mirrored.

Stands between an image's size and its pixels.  Invariant: the parameters of a sample depend
on its id, seed and epoch alone, never on the chunk or the thread it is decoded in.

Source of the random crop: C. Szegedy et al., Going Deeper with Convolutions, 2014, drawn as
torchvision's RandomResizedCrop documents it: ten tries of a uniform area and a log-uniform
aspect ratio, then the largest centred region whose ratio is allowed.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from iopipe.draws import uniform
from iopipe.protocols import Int64Array, Samples
from iopipe.stages import ImageOptions

_NUM_TRIES = 10

Boxes = Int64Array
"""[n, 4]: top, left, height, width in pixels."""


def boxes(samples: Samples, sizes: Int64Array, options: ImageOptions) -> Boxes:
    """The region of each image, whose (height, width) are the rows of `sizes`."""
    if options.crop == "random":
        return _random(samples, sizes, options)
    if options.crop == "center" and options.size is not None:
        height, width = options.size
        return _centred(sizes, np.full(len(sizes), width / height))
    return np.concatenate([np.zeros_like(sizes), sizes], axis=1)


def flips(samples: Samples, options: ImageOptions) -> npt.NDArray[np.bool_]:
    """[n]: which images are mirrored left-right."""
    if not options.flip:
        return np.zeros(len(samples), np.bool_)
    draws = uniform(samples.ids, seed=samples.seed, epoch=samples.epoch, op="flip", num_draws=1)
    result: npt.NDArray[np.bool_] = draws[:, 0] < 0.5
    return result


def _random(samples: Samples, sizes: Int64Array, options: ImageOptions) -> Boxes:
    draws = uniform(
        samples.ids,
        seed=samples.seed,
        epoch=samples.epoch,
        op="crop",
        num_draws=4 * _NUM_TRIES,
    ).reshape(len(sizes), _NUM_TRIES, 4)
    image_height, image_width = sizes[:, :1], sizes[:, 1:]
    area = image_height * image_width * _between(draws[..., 0], *options.scale)
    ratio = np.exp(_between(draws[..., 1], *np.log(options.ratio)))
    width = np.rint(np.sqrt(area * ratio)).astype(np.int64)
    height = np.rint(np.sqrt(area / ratio)).astype(np.int64)
    fits: npt.NDArray[np.bool_] = np.logical_and(width > 0, height > 0)
    fits &= np.logical_and(width <= image_width, height <= image_height)
    top = (draws[..., 2] * (image_height - height + 1)).astype(np.int64)
    left = (draws[..., 3] * (image_width - width + 1)).astype(np.int64)
    rows, tries = np.arange(len(sizes)), np.argmax(fits, axis=1)
    chosen = np.stack([part[rows, tries] for part in (top, left, height, width)], axis=1)
    allowed = np.clip(sizes[:, 1] / sizes[:, 0], *options.ratio)
    fallback = _centred(sizes, allowed)
    return np.where(np.any(fits, axis=1, keepdims=True), chosen, fallback)


def _centred(sizes: Int64Array, ratio: npt.NDArray[np.float64]) -> Boxes:
    """The largest centred regions with these ratios of width to height."""
    image_height, image_width = sizes[:, 0], sizes[:, 1]
    is_wide = image_width > image_height * ratio
    height = np.where(is_wide, image_height, np.rint(image_width / ratio))
    width = np.where(is_wide, np.rint(image_height * ratio), image_width)
    height = np.clip(height, 1, image_height).astype(np.int64)
    width = np.clip(width, 1, image_width).astype(np.int64)
    top, left = (image_height - height) // 2, (image_width - width) // 2
    return np.stack([top, left, height, width], axis=1)


def _between(draws: npt.NDArray[np.float64], low: float, high: float) -> npt.NDArray[np.float64]:
    return low + draws * (high - low)
