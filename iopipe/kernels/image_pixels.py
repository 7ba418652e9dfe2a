"""What happens to a pixel after the resize: colour jitter, normalise, erase, mix, store.

Stands under `image_kernel`, behind `image_rows`.  Invariant: everything is float32, and no
product stands beside a sum that a compiler may or may not fuse with it: fma is written out.
"""

# Triton code has no types that mypy could check, and knows no stars in tuples.
# mypy: disable-error-code="no-untyped-def,untyped-decorator,assignment,misc,no-redef"
# ruff: noqa: RUF005

from __future__ import annotations

import triton
import triton.language as tl

from iopipe.kernels.image_rows import scaled, weighted

GRAY_ONE = tl.constexpr(2**24)
"""The fixed-point value of white in the sums of gray values: sums of integers have no order."""


@triton.jit
def clamped(values, C: tl.constexpr):
    """Each value put into 0..1."""
    found = ()
    for channel in tl.static_range(C):
        found = found + (tl.minimum(tl.maximum(values[channel], 0.0), 1.0),)
    return found


@triton.jit
def gray(values, C: tl.constexpr):
    """0.2989 R + 0.587 G + 0.114 B (ITU-R BT.601, as torchvision rounds it); one channel: it."""
    if C == 3:
        return tl.fma(values[0], 0.2989, tl.fma(values[1], 0.587, values[2] * 0.114))
    else:
        return values[0]


@triton.jit
def blended(values, towards, factor, C: tl.constexpr):
    """factor * values + (1 - factor) * towards, in 0..1."""
    rest = (1.0 - factor) * towards
    found = ()
    for channel in tl.static_range(C):
        found = found + (tl.fma(values[channel], factor, rest),)
    return clamped(found, C)


@triton.jit
def hue_part(number, value, chroma):
    """Value - chroma * max(0, min(k, 4 - k, 1)) for k = number mod 6: one channel of HSV."""
    k = tl.fma(tl.floor(number * (1.0 / 6.0)), -6.0, number)
    ramp = tl.minimum(tl.maximum(tl.minimum(k, 4.0 - k), 0.0), 1.0)
    return tl.fma(-chroma, ramp, value)


@triton.jit
def hue_shifted(values, turn):
    """The hue turned by `turn` of the full circle (HSV, Smith 1978, without its cases)."""
    red, green, blue = values
    value = tl.maximum(tl.maximum(red, green), blue)
    chroma = value - tl.minimum(tl.minimum(red, green), blue)
    inverse = 1.0 / tl.where(chroma > 0, chroma, 1.0)
    sixths = tl.where(
        value == red,
        (green - blue) * inverse,
        tl.where(
            value == green,
            tl.fma(blue - red, inverse, 2.0),
            tl.fma(red - green, inverse, 4.0),
        ),
    )
    sixths = tl.fma(turn, 6.0, sixths)
    return (
        hue_part(sixths + 5.0, value, chroma),
        hue_part(sixths + 3.0, value, chroma),
        hue_part(sixths + 1.0, value, chroma),
    )


@triton.jit
def look_of(
    look,
    image,
    num_pixels,
    tiles_an_image,
    BRIGHTNESS: tl.constexpr,
    CONTRAST: tl.constexpr,
    SATURATION: tl.constexpr,
    HUE: tl.constexpr,
    ERASE: tl.constexpr,
    TILES: tl.constexpr,
):
    """The factors of one image, the mean of its gray values, and its erased box."""
    brightness, contrast, saturation, hue, gray_sums, erase = look
    factors = (1.0, 1.0, 1.0, 0.0)
    mean = 0.0
    box = (0, 0, 0, 0)
    if BRIGHTNESS:
        factors = (tl.load(brightness + image), factors[1], factors[2], factors[3])
    if CONTRAST:
        factors = (factors[0], tl.load(contrast + image), factors[2], factors[3])
        tile = tl.arange(0, TILES)
        sums = tl.load(
            gray_sums + image.to(tl.int64) * tiles_an_image + tile,
            mask=tile < tiles_an_image,
            other=0,
        )
        mean = tl.sum(sums).to(tl.float32) * (1.0 / (num_pixels.to(tl.float32) * GRAY_ONE))
    if SATURATION:
        factors = (factors[0], factors[1], tl.load(saturation + image), factors[3])
    if HUE:
        factors = (factors[0], factors[1], factors[2], tl.load(hue + image))
    if ERASE:
        box = box_of(erase, image)
    return factors, mean, box


@triton.jit
def box_of(boxes, image):
    """(top, left, height, width)."""
    at = boxes + 4 * image.to(tl.int64)
    return tl.load(at), tl.load(at + 1), tl.load(at + 2), tl.load(at + 3)


@triton.jit
def inside(box, row, columns):
    """Which columns of this row lie in the box."""
    top, left, height, width = box
    return (row >= top) & (row - top < height) & (columns >= left) & (columns - left < width)


@triton.jit
def coloured(
    values,
    look,
    C: tl.constexpr,
    BRIGHTNESS: tl.constexpr,
    CONTRAST: tl.constexpr,
    SATURATION: tl.constexpr,
    HUE: tl.constexpr,
):
    """Brightness, contrast, saturation, hue, in this order, each as torchvision defines it."""
    factors, mean, _ = look
    if BRIGHTNESS:
        values = clamped(scaled(values, factors[0], C), C)
    if CONTRAST:
        values = blended(values, mean, factors[1], C)
    if SATURATION:
        values = blended(values, gray(values, C), factors[2], C)
    if HUE:
        values = hue_shifted(values, factors[3])
    return values


@triton.jit
def normalised(values, look, affine, row, columns, C: tl.constexpr, ERASE: tl.constexpr):
    """value / std - mean / std, and the erased box filled."""
    factors, shifts, fill = affine
    erased = inside(look[2], row, columns)
    found = ()
    for channel in tl.static_range(C):
        value = tl.fma(values[channel], factors[channel], shifts[channel])
        if ERASE:
            value = tl.where(erased, fill, value)
        found = found + (value,)
    return found


@triton.jit
def mixed(values, others, share, taken, C: tl.constexpr):
    """share * values + (1 - share) * others; where `taken`, others alone."""
    blend = weighted(share, values, scaled(others, 1.0 - share, C), C)
    found = ()
    for channel in tl.static_range(C):
        found = found + (tl.where(taken, others[channel], blend[channel]),)
    return found


@triton.jit
def stored(value, dtype: tl.constexpr):
    """Rounded to nearest even; uint8 takes 0..1 as 0..255."""
    if dtype == tl.uint8:
        level = tl.minimum(tl.maximum(value * 255.0, 0.0), 255.0)
        # Adding 1.5 * 2^23 leaves no bits for a fraction.
        return ((level + 12582912.0) - 12582912.0).to(tl.uint8)
    else:
        return value.to(dtype)


@triton.jit
def store_row(out, values, row, columns, size, C: tl.constexpr, CHANNELS_LAST: tl.constexpr):
    """One row of one image; `out` points at the image."""
    height, width = size
    for channel in tl.static_range(C):
        if CHANNELS_LAST:
            place = (row * width + columns) * C + channel
        else:
            place = (channel * height + row) * width + columns
        tl.store(out + place, stored(values[channel], out.dtype.element_ty), mask=columns < width)


FUNCTIONS = (
    clamped,
    gray,
    blended,
    hue_part,
    hue_shifted,
    look_of,
    box_of,
    inside,
    coloured,
    normalised,
    mixed,
    stored,
    store_row,
)
