"""The launch: tiles of output rows, each from the rows of its crop.

Stands between `image` and the Triton functions of rows and pixels.  Invariant: programs share
nothing; which of them takes a tile decides only when it is written.
"""

# Triton code has no types that mypy could check, and knows no stars in tuples.
# mypy: disable-error-code="no-untyped-def,untyped-decorator,assignment,misc,no-redef"
# ruff: noqa: RUF005

from __future__ import annotations

import triton
import triton.language as tl

from iopipe.kernels import image_pixels, image_rows
from iopipe.kernels.image_pixels import (
    GRAY_ONE,
    box_of,
    coloured,
    gray,
    inside,
    look_of,
    mixed,
    normalised,
    store_row,
)
from iopipe.kernels.image_rows import next_row, open_stream

MAX_SIDE = tl.constexpr(65535)
"""Pixels of an image's height or width: up to here all integers of the weights fit int32."""


@triton.jit
def open_crop(images, image, C: tl.constexpr):
    """((address, bytes a row, height, width) of the crop, whether all of it exists)."""
    data, offsets, heights, widths, crops, num_bytes = images
    offset = tl.load(offsets + image)
    height = tl.load(heights + image)
    width = tl.load(widths + image)
    top, left, rows, columns = box_of(crops, image)
    stride = width.to(tl.int64) * C
    legal = (height > 0) & (height <= MAX_SIDE) & (width > 0) & (width <= MAX_SIDE)
    legal = legal & (offset >= 0) & (offset <= num_bytes - height * stride)
    legal = legal & (top >= 0) & (rows > 0) & (rows <= height - top)
    legal = legal & (left >= 0) & (columns > 0) & (columns <= width - left)
    address = data.to(tl.int64) + offset + top * stride + left.to(tl.int64) * C
    return (address, stride, rows, columns), legal


@triton.jit
def source_columns(flips, image, columns, width, FLIP: tl.constexpr):
    """Which column of the resized crop each output column shows; padding repeats the last."""
    source = tl.minimum(columns, width - 1)
    if FLIP:
        source = tl.where(tl.load(flips + image) != 0, width - 1 - source, source)
    return source


@triton.jit
def fill_nan(out, rows, columns, size, C: tl.constexpr, CHANNELS_LAST: tl.constexpr):
    """What a sample gets that does not exist: NaN, or 0 in uint8."""
    row, end = rows
    value = columns.to(tl.float32) * float("nan")
    if out.dtype.element_ty == tl.uint8:
        value = columns.to(tl.float32) * 0.0
    while row < end:
        store_row(out, (value, value, value, value), row, columns, size, C, CHANNELS_LAST)
        row += 1


@triton.jit
def run_rows(
    out,
    crop,
    other_crop,
    looks,
    blend,
    affine,
    rows,
    columns,
    sources,
    size,
    C: tl.constexpr,
    BRIGHTNESS: tl.constexpr,
    CONTRAST: tl.constexpr,
    SATURATION: tl.constexpr,
    HUE: tl.constexpr,
    ERASE: tl.constexpr,
    MIX: tl.constexpr,
    GRAY: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    AHEAD: tl.constexpr,
    PTX: tl.constexpr,
    TAPS: tl.constexpr,
    GROWS: tl.constexpr,
):
    """The rows of one tile; the columns' sums of gray values where GRAY, which stores nothing."""
    height, width = size
    row, end = rows
    share, box = blend
    sums = tl.zeros_like(columns).to(tl.int64)
    plan, state = open_stream(crop, sources[0], row, end - row, height, width, C, TAPS, AHEAD, PTX)
    if MIX:
        other_plan, other_state = open_stream(
            other_crop, sources[1], row, end - row, height, width, C, TAPS, AHEAD, PTX
        )
    while row < end:
        values, state = next_row(plan, state, height, width, C, TAPS, GROWS, PTX)
        values = coloured(values, looks[0], C, BRIGHTNESS, CONTRAST, SATURATION, HUE)
        if GRAY:
            level = tl.fma(gray(values, C), GRAY_ONE * 1.0, 0.5).to(tl.int32)
            sums += tl.where(columns < width, level, 0).to(tl.int64)
        else:
            values = normalised(values, looks[0], affine, row, columns, C, ERASE)
            if MIX:
                others, other_state = next_row(
                    other_plan, other_state, height, width, C, TAPS, GROWS, PTX
                )
                others = coloured(others, looks[1], C, BRIGHTNESS, CONTRAST, SATURATION, HUE)
                others = normalised(others, looks[1], affine, row, columns, C, ERASE)
                values = mixed(values, others, share, inside(box, row, columns), C)
            store_row(out, values, row, columns, size, C, CHANNELS_LAST)
        row += 1
    return tl.sum(sums)


@triton.jit
def run_any(
    out,
    crop,
    other_crop,
    looks,
    blend,
    affine,
    rows,
    columns,
    sources,
    size,
    C: tl.constexpr,
    BRIGHTNESS: tl.constexpr,
    CONTRAST: tl.constexpr,
    SATURATION: tl.constexpr,
    HUE: tl.constexpr,
    ERASE: tl.constexpr,
    MIX: tl.constexpr,
    GRAY: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    AHEAD: tl.constexpr,
    PTX: tl.constexpr,
    TAPS: tl.constexpr,
):
    """`run_rows`, compiled for crops that grow on the way down and for those that shrink."""
    if MIX:
        # The partner's crop may grow where this one shrinks.
        total = run_rows(
            out, crop, other_crop, looks, blend, affine, rows, columns, sources, size,
            C, BRIGHTNESS, CONTRAST, SATURATION, HUE, ERASE, MIX, GRAY, CHANNELS_LAST,
            AHEAD, PTX, TAPS, 2,
        )  # fmt: skip
    elif crop[2] < size[0]:
        total = run_rows(
            out, crop, other_crop, looks, blend, affine, rows, columns, sources, size,
            C, BRIGHTNESS, CONTRAST, SATURATION, HUE, ERASE, MIX, GRAY, CHANNELS_LAST,
            AHEAD, PTX, TAPS, 1,
        )  # fmt: skip
    else:
        total = run_rows(
            out, crop, other_crop, looks, blend, affine, rows, columns, sources, size,
            C, BRIGHTNESS, CONTRAST, SATURATION, HUE, ERASE, MIX, GRAY, CHANNELS_LAST,
            AHEAD, PTX, TAPS, 0,
        )  # fmt: skip
    return total


@triton.jit
def transform_kernel(
    out,
    data,
    offsets,
    heights,
    widths,
    crops,
    flips,
    brightness,
    contrast,
    saturation,
    hue,
    gray_sums,
    erase,
    partners,
    shares,
    boxes,
    num_bytes,
    num_images,
    height,
    last_column,
    tiles_down,
    tiles_across,
    factor0,
    factor1,
    factor2,
    factor3,
    shift0,
    shift1,
    shift2,
    shift3,
    fill,
    C: tl.constexpr,
    FLIP: tl.constexpr,
    BRIGHTNESS: tl.constexpr,
    CONTRAST: tl.constexpr,
    SATURATION: tl.constexpr,
    HUE: tl.constexpr,
    ERASE: tl.constexpr,
    MIX: tl.constexpr,
    SHARES: tl.constexpr,
    BOXES: tl.constexpr,
    GRAY: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    TILES: tl.constexpr,
    AHEAD: tl.constexpr,
    PTX: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """See `image.transform_images`; with GRAY, only the sums that contrast needs."""
    # Were the width known to be even, a thread would store pairs of pixels and so need another
    # layout than the loads: each row would go through shared memory, behind two barriers.
    width = last_column + 1
    images = (data, offsets, heights, widths, crops, num_bytes)
    look = (brightness, contrast, saturation, hue, gray_sums, erase)
    affine = (
        (factor0, factor1, factor2, factor3), (shift0, shift1, shift2, shift3), fill
    )  # fmt: skip
    size = (height, width)
    tiles_an_image = tiles_down * tiles_across
    tile = tl.program_id(0)
    while tile < num_images * tiles_an_image:
        image = tile // tiles_an_image
        begin = (tile // tiles_across % tiles_down) * ROWS
        rows = (begin, tl.minimum(begin + ROWS, height))
        columns = tile % tiles_across * COLUMNS + tl.arange(0, COLUMNS)
        crop, legal = open_crop(images, image, C)
        looks = (
            look_of(
                look, image, height * width, tiles_an_image,
                BRIGHTNESS, CONTRAST, SATURATION, HUE, ERASE, TILES,
            ),
        )  # fmt: skip
        sources = (source_columns(flips, image, columns, width, FLIP),)
        other_crop = crop
        share = 1.0
        box = (0, 0, 0, 0)
        narrow = crop[3]
        broad = crop[3]
        if MIX:
            partner = tl.load(partners + image)
            legal = legal & (partner >= 0) & (partner < num_images)
            partner = tl.where(legal, partner, 0).to(tl.int32)
            other_crop, other_legal = open_crop(images, partner, C)
            legal = legal & other_legal
            looks = looks + (
                look_of(
                    look, partner, height * width, tiles_an_image,
                    BRIGHTNESS, CONTRAST, SATURATION, HUE, ERASE, TILES,
                ),
            )  # fmt: skip
            sources = sources + (source_columns(flips, partner, columns, width, FLIP),)
            narrow = tl.minimum(narrow, other_crop[3])
            broad = tl.maximum(broad, other_crop[3])
            if SHARES:
                share = tl.load(shares + image)
            if BOXES:
                box = box_of(boxes, image)
        blend = (share, box)
        place = out + image.to(tl.int64) * height * width * C
        taps = (2 * tl.maximum(broad, width) + width - 1) // width
        # Weights are below 2 * max(broad, width), and two of them have to share a word.
        narrow = tl.where(2 * tl.maximum(broad, width) < 65536, narrow, 0)
        total = tl.zeros((), tl.int64)
        if not legal:
            if not GRAY:
                fill_nan(place, rows, columns, size, C, CHANNELS_LAST)
        elif (taps <= 2) & (narrow >= 2):
            total = run_any(
                place, crop, other_crop, looks, blend, affine, rows, columns, sources, size,
                C, BRIGHTNESS, CONTRAST, SATURATION, HUE, ERASE, MIX, GRAY, CHANNELS_LAST,
                AHEAD, PTX, 2,
            )  # fmt: skip
        elif (taps <= 3) & (narrow >= 3):
            total = run_any(
                place, crop, other_crop, looks, blend, affine, rows, columns, sources, size,
                C, BRIGHTNESS, CONTRAST, SATURATION, HUE, ERASE, MIX, GRAY, CHANNELS_LAST,
                AHEAD, PTX, 3,
            )  # fmt: skip
        elif (taps <= 4) & (narrow >= 4):
            total = run_any(
                place, crop, other_crop, looks, blend, affine, rows, columns, sources, size,
                C, BRIGHTNESS, CONTRAST, SATURATION, HUE, ERASE, MIX, GRAY, CHANNELS_LAST,
                AHEAD, PTX, 4,
            )  # fmt: skip
        elif (taps <= 6) & (narrow >= 6):
            total = run_any(
                place, crop, other_crop, looks, blend, affine, rows, columns, sources, size,
                C, BRIGHTNESS, CONTRAST, SATURATION, HUE, ERASE, MIX, GRAY, CHANNELS_LAST,
                AHEAD, PTX, 6,
            )  # fmt: skip
        else:
            total = run_any(
                place, crop, other_crop, looks, blend, affine, rows, columns, sources, size,
                C, BRIGHTNESS, CONTRAST, SATURATION, HUE, ERASE, MIX, GRAY, CHANNELS_LAST,
                AHEAD, PTX, 0,
            )  # fmt: skip
        if GRAY:
            tl.store(gray_sums + tile, total)
        tile += tl.num_programs(0)


FUNCTIONS = (
    open_crop,
    source_columns,
    fill_nan,
    run_rows,
    run_any,
    transform_kernel,
    *image_rows.FUNCTIONS,
    *image_pixels.FUNCTIONS,
)
