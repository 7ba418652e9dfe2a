"""A batch of decoded images to what a vision model takes, in one launch.

Stands after the transfer: packed uint8 images of any sizes become one normalised tensor.
Invariant: a sample's pixels depend on that sample (and its partner) alone, not on its place
in the batch, the grid or the configuration.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
from torch.library import triton_op, wrap_triton

from iopipe.errors import PipelineError
from iopipe.kernels.border import check_budget, check_place, chosen, num_programs, to_words
from iopipe.kernels.image_batch import ImageOptions, ImageParameters, PackedImages
from iopipe.kernels.image_kernel import FUNCTIONS, transform_kernel
from iopipe.kernels.tuning import Config, Kernel, Problem

_BLOCKS = ("AHEAD", "COLUMNS", "PTX", "ROWS")


def transform_images(
    images: PackedImages,
    parameters: ImageParameters,
    options: ImageOptions,
    *,
    out: torch.Tensor | None = None,
    max_programs: int | None = None,
    config: Config | None = None,
) -> torch.Tensor:
    """Crop, resize, flip, jitter, normalise, erase, mix, cast: [N, C, height, width].

    The resize is antialiased and bilinear: F.interpolate(crop, mode="bilinear",
    antialias=True, align_corners=False).  Everything is computed in float32 on values in 0..1
    and rounded once, at the end; uint8 is the value times 255, without mean and std.  With e =
    1e-5 / std, the result of the same steps in float64 is met within e in float32, within one
    unit in the last place plus e in bfloat16 and float16, and rounded as float64 would be in
    uint8 unless it is within 1e-5 * 255 of a tie.

    The host does not see the sizes, so a crop that leaves its image, an image that leaves the
    data, and a partner that does not exist cannot raise: that sample is NaN, or 0 in uint8.

    One launch, two with contrast.  `max_programs` bounds the programs, and so the share of the
    GPU.  Raises PipelineError for tensors of another kind or place.
    """
    check_budget(max_programs)
    images.check()
    parameters.check(images)
    options.check(images.channels)
    if out is None:
        out = options.empty(len(images), images.channels, device=images.data.device)
    _check_out(out, images, options)
    check_place("data", images.data)
    _transform(
        out,
        images.data,
        [images.offsets, images.heights, images.widths, parameters.crops],
        parameters.flips,
        [parameters.brightness, parameters.contrast, parameters.saturation, parameters.hue],
        parameters.erased,
        parameters.partners,
        parameters.shares,
        parameters.boxes,
        options.channels_last,
        options.affine(),
        # The compiler cannot see through inline assembly: it would copy every input first.
        not torch.compiler.is_compiling(),
        max_programs,
        to_words(config, _BLOCKS),
    )
    return out


def problem_of(images: PackedImages, parameters: ImageParameters, options: ImageOptions) -> Problem:
    """What decides which configuration is fast."""
    shape = (len(images), images.channels, options.height, options.width)
    return _problem(shape, options.dtype, parameters.partners is not None)


def _problem(shape: Sequence[int], dtype: torch.dtype, mixes: bool) -> Problem:
    number, channels, height, width = shape
    return Problem(
        dtypes=("uint8", str(dtype).removeprefix("torch.")),
        shape={
            "images": number,
            "channels": channels,
            "height": height,
            "width": width,
            "mixes": int(mixes),
        },
    )


def _check_out(out: torch.Tensor, images: PackedImages, options: ImageOptions) -> None:
    shape = (len(images), images.channels, options.height, options.width)
    if tuple(out.shape) != shape or out.dtype != options.dtype:
        raise PipelineError(f"out is {out.dtype} {tuple(out.shape)}: give {options.dtype} {shape}")
    if out.device != images.data.device:
        raise PipelineError(f"out is on {out.device}, not on {images.data.device}: move it there")
    layout = torch.channels_last if options.channels_last else torch.contiguous_format
    if not out.is_contiguous(memory_format=layout):
        raise PipelineError(f"out is not contiguous as {layout}: make it with options.empty")


@triton_op("iopipe::transform_images", mutates_args=("out",))
def _transform(
    out: torch.Tensor,
    data: torch.Tensor,
    images: Sequence[torch.Tensor],
    flips: torch.Tensor | None,
    jitter: Sequence[torch.Tensor | None],
    erased: torch.Tensor | None,
    partners: torch.Tensor | None,
    shares: torch.Tensor | None,
    boxes: torch.Tensor | None,
    channels_last: bool,
    affine: Sequence[float],
    is_eager: bool,
    max_programs: int | None,
    words: Sequence[int],
) -> None:
    number, channels, height, width = out.shape
    if number == 0:
        return
    config = chosen(KERNEL, _problem(out.shape, out.dtype, partners is not None), words, _BLOCKS)
    rows, columns = config.blocks["ROWS"], config.blocks["COLUMNS"]
    tiles = triton.cdiv(height, rows), triton.cdiv(width, columns)
    num_tiles = number * tiles[0] * tiles[1]
    grid = (num_programs(num_tiles, max_programs, at_most=2**31 - 1),)
    contrast = jitter[1] is not None
    # What is absent is never touched; any tensor stands in for it.
    looks = [data if factor is None else factor for factor in jitter]
    flags = {
        "C": channels,
        "FLIP": flips is not None,
        "BRIGHTNESS": jitter[0] is not None,
        "CHANNELS_LAST": channels_last,
        "AHEAD": config.blocks["AHEAD"],
        "PTX": is_eager and _takes_ptx(config, data),
        "ROWS": rows,
        "COLUMNS": columns,
        "num_warps": config.num_warps,
        "num_stages": config.num_stages,
    }
    sides = (data.numel(), number, height, width - 1, *tiles)
    flipped = data if flips is None else flips
    sums = data
    if contrast:
        sums = torch.empty(num_tiles, dtype=torch.int64, device=data.device)
        wrap_triton(transform_kernel)[grid](
            out, data, *images, flipped, *looks, sums, data, data, data, data, *sides, *affine,
            CONTRAST=False, SATURATION=False, HUE=False, ERASE=False, MIX=False, SHARES=False,
            BOXES=False, GRAY=True, TILES=1, **flags,
        )  # fmt: skip
    wrap_triton(transform_kernel)[grid](
        out, data, *images, flipped, *looks, sums,
        data if erased is None else erased,
        data if partners is None else partners,
        data if shares is None else shares,
        data if boxes is None else boxes,
        *sides, *affine,
        CONTRAST=contrast, SATURATION=jitter[2] is not None, HUE=jitter[3] is not None,
        ERASE=erased is not None, MIX=partners is not None, SHARES=shares is not None,
        BOXES=boxes is not None, GRAY=False,
        TILES=triton.next_power_of_2(tiles[0] * tiles[1]) if contrast else 1, **flags,
    )  # fmt: skip


@_transform.register_fake  # type: ignore[untyped-decorator]
def _(*args: object) -> None:
    """Everything is written in place."""


def _takes_ptx(config: Config, data: torch.Tensor) -> bool:
    return bool(config.blocks["PTX"]) and data.is_cuda and torch.version.cuda is not None


def _heuristic(problem: Problem) -> Config:
    return _config(rows=20, columns=_columns(problem), pixels=2, ahead=1)


def _columns(problem: Problem) -> int:
    """As few columns as hold the width, 256 at most."""
    width = problem.shape["width"]
    return next(columns for columns in (32, 64, 128, 256) if columns >= min(width, 256))


def _config(*, rows: int, columns: int, pixels: int, ahead: int, ptx: int = 1) -> Config:
    """`pixels` of each row for one thread."""
    blocks = {"AHEAD": ahead, "COLUMNS": columns, "PTX": ptx, "ROWS": rows}
    return Config(blocks=blocks, num_warps=max(1, columns // 32 // pixels))


def _candidates(problem: Problem) -> Sequence[Config]:
    tried = [
        _config(rows=rows, columns=columns, pixels=pixels, ahead=ahead)
        for rows in (14, 20, 28)
        for columns in (64, 128, 256)
        for pixels in (1, 2)
        for ahead in (1, 2)
        if columns <= _columns(problem) and columns // 32 >= pixels
    ]
    first = _heuristic(problem)
    return [first, *(config for config in tried if config != first)]


KERNEL = Kernel(
    name="image",
    functions=FUNCTIONS,
    heuristic=_heuristic,
    candidates=_candidates,
)
