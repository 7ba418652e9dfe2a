"""Reading bit-packed values: eight consecutive ones a thread, or any, or through runs.

Stands under `column_kernels`.  Invariant: nothing is read outside the aligned 4-byte words
that hold a wanted bit.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def words_of(data):  # type: ignore[no-untyped-def]
    """The aligned words that hold these bytes, and how many bits come before the bytes."""
    address = data.to(tl.int64)
    lead = address & 3
    return (address - lead).to(tl.pointer_type(tl.uint32)), lead * 8


@triton.jit
def _window(low, high, shift):  # type: ignore[no-untyped-def]
    """32 bits from bit `shift` (0 to 31) of two words on."""
    both = (high.to(tl.uint64) << 32) | low.to(tl.uint64)
    return (both >> shift).to(tl.uint32)


@triton.jit  # type: ignore[untyped-decorator]
def octets(words, first_bit, num_values, GROUPS: tl.constexpr, WIDTH: tl.constexpr):  # type: ignore[no-untyped-def]
    """Eight uint32 [GROUPS]: value j of each group of eight; groups lie one behind the other
    from `first_bit` on, and `num_values` values exist.

    Eight values are exactly WIDTH bytes: a thread loads the words of its group once, aligns
    them, and every value is then at a place known when this is compiled.
    """
    NUM_WORDS: tl.constexpr = (8 * WIDTH + 31) // 32
    words += first_bit >> 5
    first_shift = (first_bit & 31).to(tl.int32)
    present = tl.minimum(num_values, 8 * GROUPS).to(tl.int32)
    last_word = (first_shift + present * WIDTH - 1) >> 5
    bits = first_shift + tl.arange(0, GROUPS) * (8 * WIDTH)
    word, shift = bits >> 5, (bits & 31).to(tl.uint64)
    before = tl.load(words + word, mask=word <= last_word, other=0)
    aligned = ()
    for k in tl.static_range(NUM_WORDS):
        after = tl.load(words + word + (k + 1), mask=word + (k + 1) <= last_word, other=0)
        aligned += (_window(before, after, shift),)  # type: ignore[assignment]
        before = after
    aligned += (before & 0,)  # type: ignore[assignment]
    values = ()
    for j in tl.static_range(8):
        value = aligned[j * WIDTH // 32] >> (j * WIDTH % 32)
        if j * WIDTH % 32 + WIDTH > 32:
            value |= aligned[j * WIDTH // 32 + 1] << (32 - j * WIDTH % 32)
        values += (value & ((1 << WIDTH) - 1),)  # type: ignore[assignment]
    return values


@triton.jit  # type: ignore[untyped-decorator]
def values_at(words, bits, mask, WIDTH: tl.constexpr):  # type: ignore[no-untyped-def]
    """uint32: the value that begins at each bit; 0 where `mask` is not set."""
    shift = (bits & 31).to(tl.int32)
    low = tl.load(words + (bits >> 5), mask=mask, other=0)
    high = tl.load(words + (bits >> 5) + 1, mask=mask & (shift + WIDTH > 32), other=0)
    return _window(low, high, shift.to(tl.uint64)) & ((1 << WIDTH) - 1)


@triton.jit
def run_of(starts, num_runs, value):  # type: ignore[no-untyped-def]
    """The last run that begins at or before this value (scalars), of all runs."""
    low = value * 0
    high = low + tl.maximum(num_runs, 1) - 1
    while low < high:
        middle = (low + high + 1) >> 1
        before = tl.load(starts + middle) <= value
        low = tl.where(before, middle, low)
        high = tl.where(before, high, middle - 1)
    return low


@triton.jit
def run_from(starts, num_runs, run, value):  # type: ignore[no-untyped-def]
    """The same, known to be `run` or one of those after it; 128 are looked at together."""
    ahead = tl.arange(0, 128)
    count = 128
    while count == 128:
        begin = tl.load(starts + run + ahead, mask=run + ahead < num_runs, other=1 << 62)
        count = tl.sum((begin <= value).to(tl.int32))
        run += tl.maximum(count, 1) - 1
    return run


@triton.jit  # type: ignore[untyped-decorator]
def hybrid_at(words, lead, runs, num_runs, first, last, numbers, mask, WIDTH: tl.constexpr):  # type: ignore[no-untyped-def]
    """uint32: the values of these numbers, all in runs `first` to `last`.

    The runs of a tile are found once; each value then searches among those few alone.
    """
    if WIDTH == 0:
        return (numbers * 0).to(tl.uint32)
    else:
        low = (numbers * 0).to(tl.int32)
        high = low + (last - first).to(tl.int32)
        span = last - first
        runs += first
        while span > 0:
            middle = (low + high + 1) >> 1
            before = tl.load(runs + middle, mask=mask, other=0) <= numbers
            low = tl.where(before, middle, low)
            high = tl.where(before, high, middle - 1)
            span = span >> 1
        start = tl.load(runs + low, mask=mask, other=0)
        place = tl.load(runs + (num_runs + 1) + low, mask=mask, other=-1)
        bits = lead + place + (numbers - start) * WIDTH
        packed = values_at(words, bits, mask & (place >= 0), WIDTH)
        return tl.where(place >= 0, packed, (-1 - place).to(tl.uint32))


FUNCTIONS = (words_of, _window, octets, values_at, run_of, run_from, hybrid_at)
