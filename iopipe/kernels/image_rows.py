"""Rows of a crop, resized across, then down, as they stream past: the heart of the kernel.

Stands under `image_kernel`.  Invariant: every weight is a whole number, so weights and sums
across are exact, and the value of an output pixel does not depend on the tile it is in.

A triangle filter of half-width max(scale, 1) input pixels around the centre of output pixel i,
(i + 1/2) * scale - 1/2 (torch's `_upsample_bilinear2d_aa`, align_corners=False), gives input
pixel j the weight max(0, 1 - |j + 1/2 - (i + 1/2) * scale| / max(scale, 1)).  Times
2 * max(input, output), all of this is whole: see `reach` and `distance` below.

Down, each input row is read once a tile.  When it shrinks, a row counts for two output rows at
most, whose sums are kept; when it grows, an output row needs two input rows, which are kept.
"""

# Triton code has no types that mypy could check, and knows no stars in tuples.
# mypy: disable-error-code="no-untyped-def,untyped-decorator,assignment,misc,no-redef"
# ruff: noqa: RUF005

from __future__ import annotations

import triton
import triton.language as tl

from iopipe.kernels import image_ptx
from iopipe.kernels.image_ptx import dot_high, dot_low, fetch, four_bytes


@triton.jit
def first_tap(centre, reach, out_size):
    """The first input pixel of positive weight; `centre` is (2 * i + 1) * input size."""
    return tl.maximum(centre - reach + out_size, 0) // (2 * out_size)


@triton.jit
def plan_columns(column, width, out_width, C: tl.constexpr, TAPS: tl.constexpr, PTX: tl.constexpr):
    """(byte of the first tap, weights, their sum) of every output column; width >= TAPS.

    With PTX two weights of 16 bits share a word.
    """
    reach = 2 * tl.maximum(width, out_width)
    centre = (2 * column + 1) * width
    # All TAPS pixels lie in the crop; those that a column does not need have no weight.
    first = tl.minimum(first_tap(centre, reach, out_width), width - TAPS)
    distance = (2 * first + 1) * out_width - centre
    weights = ()
    total = tl.zeros_like(column)
    for tap in tl.static_range(TAPS):
        weight = tl.maximum(reach - tl.abs(distance + 2 * tap * out_width), 0)
        if not PTX or tap % 2 == 0:
            weights = weights + (weight,)
        else:
            weights = weights[:-1] + (weights[-1] | (weight << 16),)
        total += weight
    return first * C, weights, total


@triton.jit
def read_words(address, first_byte, num_bytes, NUM_BYTES: tl.constexpr, SURE: tl.constexpr):
    """The aligned words that hold `num_bytes` from `first_byte` of a row on, and the shift in
    bits of the first byte in the first word.  At least SURE bytes are needed, at most NUM_BYTES.

    A word is read only if it holds a byte that is needed: it lies in the memory of the image's
    buffer, or with up to three bytes around it, in the same aligned word.
    """
    start = first_byte + (address & 3).to(tl.int32)
    words = (address - (address & 3)).to(tl.pointer_type(tl.uint32)) + (start >> 2)
    start = start & 3
    found = ()
    for word in tl.static_range((NUM_BYTES + 6) // 4):
        if 4 * word < SURE:
            found = found + (tl.load(words + word),)
        else:
            found = found + (tl.load(words + word, mask=start + num_bytes > 4 * word, other=0),)
    return found, start * 8


@triton.jit
def straightened(found, NUM_BYTES: tl.constexpr):
    """Words of which the first starts at the first byte that is needed."""
    words, shift = found
    straight = ()
    for word in tl.static_range((NUM_BYTES + 3) // 4):
        # The last bytes may need no further word.
        if word + 1 < (NUM_BYTES + 6) // 4:
            pair = (words[word + 1].to(tl.uint64) << 32) | words[word].to(tl.uint64)
            straight = straight + ((pair >> shift.to(tl.uint64)).to(tl.uint32),)
        else:
            straight = straight + (words[word] >> shift.to(tl.uint32),)
    return straight


@triton.jit
def weigh(found, weights, C: tl.constexpr, TAPS: tl.constexpr, PTX: tl.constexpr):
    """Per channel the weighted sum of TAPS pixels, exact in int32, as float32."""
    straight = straightened(found, TAPS * C)
    sums = ()
    for channel in tl.static_range(C):
        if PTX:
            total = tl.zeros_like(weights[0])
            for quad in tl.static_range((TAPS + 3) // 4):
                taps = four_bytes(straight, 4 * quad * C + channel, C, TAPS - 4 * quad)
                total = dot_low(weights[2 * quad], taps, total)
                if TAPS > 4 * quad + 2:
                    total = dot_high(weights[2 * quad + 1], taps, total)
        else:
            total = tl.zeros_like(weights[0])
            for tap in tl.static_range(TAPS):
                word = straight[(tap * C + channel) // 4]
                value = (word >> ((tap * C + channel) % 4 * 8)) & 0xFF
                total += weights[tap] * value.to(tl.int32)
        sums = sums + (total.to(tl.float32),)
    return sums


@triton.jit
def weigh_wide(address, column, width, out_width, C: tl.constexpr):
    """Like `weigh` for any number of taps, four at a time; weights are made again each time."""
    reach = 2 * tl.maximum(width, out_width)
    centre = (2 * column + 1) * width
    first = first_tap(centre, reach, out_width)
    sums = zeros(column, C)
    step = 0
    while step * out_width < reach:
        begin = first + step
        num_taps = tl.minimum(tl.maximum(width - begin, 0), 4)
        # Beyond the crop every byte counts as not needed, so nothing is read.
        found = read_words(
            address,
            tl.minimum(begin, width) * C,
            tl.where(num_taps > 0, num_taps * C, -4),
            4 * C,
            0,
        )
        weights = ()
        for tap in tl.static_range(4):
            distance = (2 * (begin + tap) + 1) * out_width - centre
            weight = tl.maximum(reach - tl.abs(distance), 0)
            weights = weights + (tl.where(tap < num_taps, weight, 0),)
        sums = added(sums, weigh(found, weights, C, 4, False), C)
        step += 4
    return sums


@triton.jit
def total_wide(column, width, out_width):
    """The sum of all weights of every column."""
    reach = 2 * tl.maximum(width, out_width)
    centre = (2 * column + 1) * width
    first = first_tap(centre, reach, out_width)
    total = column.to(tl.float32) * 0
    step = 0
    while step * out_width < reach:
        distance = (2 * (first + step) + 1) * out_width - centre
        weight = tl.maximum(reach - tl.abs(distance), 0)
        total += tl.where(first + step < width, weight, 0).to(tl.float32)
        step += 1
    return total


@triton.jit
def zeros(like, C: tl.constexpr):
    """C times zero, shaped as `like`."""
    values = ()
    for _ in tl.static_range(C):
        values = values + (tl.zeros_like(like).to(tl.float32),)
    return values


@triton.jit
def added(left, right, C: tl.constexpr):
    """left + right, channel by channel."""
    values = ()
    for channel in tl.static_range(C):
        values = values + (left[channel] + right[channel],)
    return values


@triton.jit
def weighted(weight, values, onto, C: tl.constexpr):
    """onto + weight * values, rounded once."""
    sums = ()
    for channel in tl.static_range(C):
        sums = sums + (tl.fma(values[channel], weight, onto[channel]),)
    return sums


@triton.jit
def scaled(values, factor, C: tl.constexpr):
    """values * factor."""
    products = ()
    for channel in tl.static_range(C):
        products = products + (values[channel] * factor,)
    return products


@triton.jit
def fetch_rows(address, stride, num_rows, byte):
    """Ask for the rows of a tile, from memory into the L2 cache.

    A cache line holds 42 pixels: every 16th column asks for each row, another column for the
    next row.
    """
    lane = tl.arange(0, byte.shape[0]) % 16
    row = 0
    while row < num_rows:
        rows = tl.minimum(row + lane, num_rows - 1)
        fetch(address + rows * stride + byte)
        row += 16


@triton.jit
def open_stream(
    crop,
    column,
    row,
    num_rows,
    out_height,
    out_width,
    C: tl.constexpr,
    TAPS: tl.constexpr,
    AHEAD: tl.constexpr,
    PTX: tl.constexpr,
):
    """What does not change on the way down a crop, and the state before output row `row`, the
    first of `num_rows`.

    AHEAD rows are under way while one is added up.
    """
    address, stride, height, width = crop
    reach = 2 * tl.maximum(height, out_height)
    centre = (2 * row + 1) * height
    first = first_tap(centre, reach, out_height)
    address += first * stride
    rows_left = height - 1 - first
    # Twice the distance between this input row and the output row, times the output's height.
    distance = (2 * first + 1) * out_height - centre
    ahead = ()
    if TAPS:
        byte, weights, total = plan_columns(column, width, out_width, C, TAPS, PTX)
        if PTX:
            end = tl.minimum(first + (num_rows * height + reach) // out_height + 1, height)
            fetch_rows(address, stride, end - first, byte)
        for _ in tl.static_range(AHEAD):
            ahead = ahead + (read_words(address, byte, TAPS * C, TAPS * C, TAPS * C),)
            address += tl.where(rows_left > 0, stride, 0)
            rows_left -= 1
        total = total.to(tl.float32)
    else:
        byte, weights = column, ()
        total = total_wide(column, width, out_width)
    plan = (stride, height, width, reach, byte, weights, 1.0 / (total * 255.0))
    none = zeros(column, C)
    return plan, (address, rows_left, first, distance, (none, none, 0.0, 0.0), ahead)


@triton.jit
def weight_of(distance, reach):
    """The weight of an input row for an output row."""
    return tl.maximum(reach - tl.abs(distance), 0).to(tl.float32)


@triton.jit
def take_in(sums, pixels, distance, height, reach, C: tl.constexpr, GROWS: tl.constexpr):
    """`sums` after one more row, resized across, that is so far from the output row.

    When the crop grows: the last two rows.  When it shrinks: the sums of this output row and of
    the next one, each with its total weight.
    """
    this, other, this_total, other_total = sums
    if GROWS:
        other = this
        this = pixels
    else:
        weight = weight_of(distance, reach)
        this = weighted(weight, pixels, this, C)
        this_total += weight
        weight = weight_of(distance - 2 * height, reach)
        other = weighted(weight, pixels, other, C)
        other_total += weight
    return this, other, this_total, other_total


@triton.jit
def give_out(sums, row, distance, reach, out_height, factor, C: tl.constexpr, GROWS: tl.constexpr):
    """The output row, all of whose rows were taken in, and `sums` for the next one."""
    this, other, this_total, other_total = sums
    if GROWS:
        last = weight_of(distance - 2 * out_height, reach)
        # There was no row before row 0.
        before = weight_of(distance - 4 * out_height, reach) * (row > 1).to(tl.float32)
        pixels = weighted(last, this, scaled(other, before, C), C)
        pixels = scaled(pixels, factor * (1.0 / (last + before)), C)
    else:
        pixels = scaled(this, factor * (1.0 / this_total), C)
        this = other
        this_total = other_total
        other = zeros(factor, C)
        other_total = 0.0
    return pixels, (this, other, this_total, other_total)


@triton.jit
def next_row(
    plan,
    state,
    out_height,
    out_width,
    C: tl.constexpr,
    TAPS: tl.constexpr,
    GROWS: tl.constexpr,
    PTX: tl.constexpr,
):
    """One row of the resized image, C times [columns] in 0..1, and the state after it.

    GROWS is 0 or 1 if the caller knows whether the crop grows on the way down, else 2.
    """
    stride, height, width, reach, byte, weights, factor = plan
    address, rows_left, row, distance, sums, ahead = state
    while (row < height) & (distance < reach):
        if TAPS:
            found = ahead[0]
            ahead = ahead[1:] + (read_words(address, byte, TAPS * C, TAPS * C, TAPS * C),)
            # Behind the last row, it is read again: a row that exists.
            address += tl.where(rows_left > 0, stride, 0)
            rows_left -= 1
            pixels = weigh(found, weights, C, TAPS, PTX)
        else:
            pixels = weigh_wide(address, byte, width, out_width, C)
            address += stride
        if GROWS < 2:
            sums = take_in(sums, pixels, distance, height, reach, C, GROWS)
        elif height < out_height:
            sums = take_in(sums, pixels, distance, height, reach, C, 1)
        else:
            sums = take_in(sums, pixels, distance, height, reach, C, 0)
        row += 1
        distance += 2 * out_height
    if GROWS < 2:
        pixels, sums = give_out(sums, row, distance, reach, out_height, factor, C, GROWS)
    elif height < out_height:
        pixels, sums = give_out(sums, row, distance, reach, out_height, factor, C, 1)
    else:
        pixels, sums = give_out(sums, row, distance, reach, out_height, factor, C, 0)
    return pixels, (address, rows_left, row, distance - 2 * height, sums, ahead)


FUNCTIONS = (
    *image_ptx.FUNCTIONS,
    first_tap,
    plan_columns,
    read_words,
    straightened,
    weigh,
    weigh_wide,
    total_wide,
    zeros,
    added,
    weighted,
    scaled,
    fetch_rows,
    open_stream,
    weight_of,
    take_in,
    give_out,
    next_row,
)
