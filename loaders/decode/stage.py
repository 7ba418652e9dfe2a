"""The decode stage: a function from chunk to chunk, whichever engine does the images.

Stands between the reader and the collation.  Invariant: what a sample becomes depends on its
bytes, its id, seed and epoch alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeAlias

import numpy as np

from iopipe.errors import DataError, PipelineError
from iopipe.loaders.decode.cpu import decode_images
from iopipe.loaders.decode.fields import field_decoder
from iopipe.protocols import Column, Ragged, Samples
from iopipe.stages import Clip, ImageOptions

IMAGE_EXTENSIONS = frozenset(
    ("bmp", "gif", "image", "j2k", "jp2", "jpeg", "jpg", "pbm", "pgm", "png", "ppm")
) | {"tif", "tiff", "webp"}
VIDEO_EXTENSIONS = frozenset(("m4v", "mkv", "mov", "mp4", "video", "webm"))

Pictures: TypeAlias = Callable[[str, Column, Samples], Column]
"""(name, column of encoded images or videos, its samples) -> the column of their pixels."""


def make_decoder(options: ImageOptions) -> Callable[[Samples], Samples]:
    """A stage function that decodes every field by its extension, on the CPU.

    Images become uint8 RGB: one array [n, height, width, 3] where `options.size` is given,
    else a list of [h, w, 3]; alpha is dropped, 16-bit pixels keep their high byte, of an
    animation the first frame counts.  cls and its like become int64 [n], txt str, json
    objects, npy arrays; other fields, and columns that hold no bytes, stay as they are.
    """
    check_options(options)
    return partial(decoded, images=partial(decode_images, options=options))


def decoded(samples: Samples, *, images: Pictures, videos: Pictures | None = None) -> Samples:
    """The samples with every field decoded, images by `images`, videos by `videos`; without it
    they stay bytes."""
    by_extension = dict.fromkeys(IMAGE_EXTENSIONS, images)
    if videos is not None:
        by_extension |= dict.fromkeys(VIDEO_EXTENSIONS, videos)
    return samples.made(
        {
            name: _named(name, column, samples, by_extension)
            for name, column in samples.columns.items()
        }
    )


def check_options(options: ImageOptions) -> None:
    """`PipelineError` for options that no engine, or not the chosen one, could follow."""
    is_cpu = options.engine == "cpu"
    if options.engine not in ("cpu", "dali", "nvimgcodec", "hybrid"):
        raise PipelineError(
            f"engine is {options.engine!r}; use 'cpu', 'dali', 'nvimgcodec' or 'hybrid'"
        )
    if options.size is None and not is_cpu:
        raise PipelineError(f"engine {options.engine!r} needs a size; give decode(size=...)")
    if options.size is None and (options.crop != "none" or options.fidelity == "scaled"):
        raise PipelineError("crop and fidelity='scaled' need a size; give decode(size=...)")
    if options.size is not None and min(options.size) < 1:
        raise PipelineError(f"size is {options.size}; height and width must be at least 1")
    if options.crop not in ("random", "center", "none"):
        raise PipelineError(f"crop is {options.crop!r}; use 'random', 'center' or 'none'")
    if options.fidelity not in ("exact", "scaled"):
        raise PipelineError(f"fidelity is {options.fidelity!r}; use 'exact' or 'scaled'")
    if options.fidelity == "scaled" and not is_cpu:
        raise PipelineError(
            f"engine {options.engine!r} decodes at full resolution; leave fidelity='scaled' out"
        )
    if options.dtype not in ("uint8", "bfloat16", "float16", "float32"):
        raise PipelineError(f"dtype is {options.dtype!r}; use 'uint8', 'bfloat16', 'float16', ...")
    if is_cpu and (options.dtype != "uint8" or options.mean or options.std):
        raise PipelineError(
            "engine 'cpu' makes uint8; normalise on the device, as iopipe.kernels.image does"
        )
    for name, (low, high) in (("scale", options.scale), ("ratio", options.ratio)):
        if not 0 < low <= high:
            raise PipelineError(f"{name} is ({low}, {high}); give 0 < low <= high")
    if options.clip is not None:
        check_clip(options.clip, options.engine)


def check_clip(clip: Clip, engine: str) -> None:
    """`PipelineError` for a clip that no video has, or that the engine cannot decode."""
    if engine != "dali":
        raise PipelineError(f"engine {engine!r} decodes no videos; use decode(engine='dali')")
    if clip.num_frames < 1 or clip.stride < 1:
        raise PipelineError(
            f"a clip of {clip.num_frames} frames with stride {clip.stride}: give at least 1 of both"
        )
    if clip.start not in ("random", "center", "first"):
        raise PipelineError(f"start is {clip.start!r}; use 'random', 'center' or 'first'")


def _named(
    name: str, column: Column, samples: Samples, by_extension: Mapping[str, Pictures]
) -> Column:
    try:
        return _column(name, column, samples, by_extension)
    except DataError as error:
        error.reason = f"field {name!r}: {error.reason}"
        raise


def _column(
    name: str, column: Column, samples: Samples, by_extension: Mapping[str, Pictures]
) -> Column:
    if not _holds_bytes(column):
        return column
    pictures = by_extension.get(name.rsplit(".", 1)[-1])
    if pictures is not None:
        return pictures(name, column, samples)
    decoder = field_decoder(name)
    return column if decoder is None else decoder(column)


def _holds_bytes(column: Column) -> bool:
    if isinstance(column, Ragged):  # rows of numbers may carry a name like 'text', too
        return column.values.dtype == np.uint8
    if isinstance(column, np.ndarray):
        return False
    return len(column) > 0 and isinstance(column[0], bytes | bytearray | memoryview)
