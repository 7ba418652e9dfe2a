"""The token kernel: what each program of `tokens.pack_tokens` does.

Stands behind tokens.py.  Invariant: a program publishes before it waits, and waits only for
tiles of lower numbers, which others began before: none waits forever.  With a program for each
tile the hardware starts those of lower numbers first; fewer programs draw tickets.

Documents are counted over the whole batch, so a tile must know how many start before it.  It is
read once and its starts are counted in registers; the count is published, those of the tiles
before it are added up as far back as one that already knows its own sum, and then everything is
written (Merrill & Garland 2016, Single-pass Parallel Prefix Scan with Decoupled Look-back).
"""

from __future__ import annotations

import triton
import triton.language as tl

from iopipe.kernels.window_order import FUNCTIONS as ORDER_FUNCTIONS
from iopipe.kernels.window_order import permuted

ONLY_OWN: tl.constexpr = tl.constexpr(1)
SUM: tl.constexpr = tl.constexpr(-2)  # the sign and the next bit: 2 as two bits, shifted back
WINDOW: tl.constexpr = tl.constexpr(64)
"""Tiles that are looked at together; their words are what a tile, or all up to it, counted:
two bits of a kind (0: not published), 31 of starts, 31 of the place behind the last."""


@triton.jit
def _first_token(row, starts, order, position, num_tokens, stride, step, STARTS, ROUNDS):  # type: ignore[no-untyped-def]
    """Where in the tokens a row begins; `num_tokens`, so that all is outside, where its
    position lies outside the epoch."""
    row = tl.zeros((), tl.int64) + row
    if STARTS:
        first = tl.load(starts + row)
    elif ROUNDS:
        place = tl.load(position) + row * step
        inside = (place >= 0) & (place < tl.load(order))
        window = permuted(tl.where(inside, place, 0), order, ROUNDS)
        first = tl.where(inside, window * stride, num_tokens)
    else:
        first = row * stride
    return first


@triton.jit
def _row(row, tokens, starts, order, position, num_tokens, length, stride, step, STARTS, ROUNDS):  # type: ignore[no-untyped-def]
    """(pointer to the row's first token, columns from which and before which there are any)"""
    begin = _first_token(row, starts, order, position, num_tokens, stride, step, STARTS, ROUNDS)
    low = tl.minimum(tl.maximum(-begin, 0), length + 1).to(tl.int32)
    high = tl.minimum(tl.maximum(num_tokens - begin, 0), length + 1).to(tl.int32)
    return tokens + begin, low, high


@triton.jit
def _starts_here(first, low, high, column, end_token, mask):  # type: ignore[no-untyped-def]
    """Whether a document starts at these columns: at 0, and behind each end token."""
    inside = mask & (column > low) & (column <= high)
    before = tl.load(first + column - 1, mask=inside, other=0).to(tl.int64)
    return mask & ((column == 0) | (inside & (before == end_token)))


@triton.jit
def _count_and_last(one, other):  # type: ignore[no-untyped-def]
    """Counts in the upper half of a word add up; of the places in the lower, the later stays."""
    counts = (one & ~0xFFFF) + (other & ~0xFFFF)
    return counts | tl.maximum(one & 0xFFFF, other & 0xFFFF)


@triton.jit  # type: ignore[untyped-decorator]
def _before(state, tile, WINDOW: tl.constexpr):  # type: ignore[no-untyped-def]
    """(documents that start, place behind the last start) in all tiles before this one."""
    lanes = tl.arange(0, WINDOW)
    count = tl.zeros((), tl.int64)
    last = tl.zeros((), tl.int64)
    nearest = tile - 1
    while nearest >= 0:
        words = _window(state, nearest, lanes)
        # As far as the first that has its whole sum, every tile must have published.
        whole = tl.min(tl.where((words >> 62) == SUM, lanes, WINDOW))
        while tl.max(tl.where((lanes <= whole) & (words == 0), 1, 0)) == 1:
            words = _window(state, nearest, lanes)
            whole = tl.min(tl.where((words >> 62) == SUM, lanes, WINDOW))
        counted = lanes <= whole
        count += tl.sum(tl.where(counted, (words >> 31) & 0x7FFFFFFF, 0))
        last = tl.maximum(last, tl.max(tl.where(counted, words & 0x7FFFFFFF, 0)))
        nearest = tl.where(whole < WINDOW, -1, nearest - WINDOW)
    return count.to(tl.int32), last.to(tl.int32)


@triton.jit
def _window(state, nearest, lanes):  # type: ignore[no-untyped-def]
    """The words of a tile and of those before it; before the first there is a sum of nothing."""
    nothing = tl.full((), SUM, tl.int64) << 62
    return tl.load(state + nearest - lanes, mask=lanes <= nearest, other=nothing, volatile=True)


@triton.jit  # type: ignore[untyped-decorator]
def _publish(state, tile, count, last, KIND: tl.constexpr):  # type: ignore[no-untyped-def]
    kind = tl.full((), KIND, tl.int64)
    word = (kind << 62) | (count.to(tl.int64) << 31) | last.to(tl.int64)
    tl.atomic_xchg(state + tile, word)


@triton.jit  # type: ignore[untyped-decorator]
def _leave(state, num_tiles, tickets, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """The last program to read leaves the state as it was found, for the next launch."""
    departed = tl.atomic_add(state + tickets + 1, 1)
    if departed == tl.num_programs(0) - 1:
        for first in range(0, num_tiles, BLOCK):
            ids = first + tl.arange(0, BLOCK)
            tl.store(state + ids, tl.zeros((BLOCK,), tl.int64), mask=ids < num_tiles)
        tl.store(state + tickets + tl.arange(0, 2), tl.zeros((2,), tl.int64))


@triton.jit  # type: ignore[untyped-decorator]
def pack_kernel(  # type: ignore[no-untyped-def]
    tokens,
    starts,
    order,
    position,
    inputs,
    labels,
    position_ids,
    document_ids,
    cu_seqlens,
    num_documents,
    state,
    num_tokens,
    num_rows,
    length,
    stride,
    step,
    end_token,
    ignore_index,
    max_documents,
    tiles_a_row,
    tickets,
    TICKETS: tl.constexpr,
    STARTS: tl.constexpr,
    ROUNDS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    # Places in the batch are int32: it has fewer than 2**31 tokens; the pool may have more.
    num_tiles = num_rows * tiles_a_row
    lanes = tl.arange(0, BLOCK)
    tile = tl.program_id(0)
    if TICKETS:
        tile = tl.atomic_add(state + tickets, 1).to(tl.int32)
    while tile < num_tiles:
        row = tile // tiles_a_row
        first, low, high = _row(
            row, tokens, starts, order, position, num_tokens, length, stride, step, STARTS, ROUNDS
        )
        begin = (tile % tiles_a_row) * BLOCK
        column = begin + lanes
        mask = column < length
        inside = mask & (column >= low) & (column < high)
        has_next = inside & (column + 1 < high)
        is_start = _starts_here(first, low, high, column, end_token, mask)
        here = tl.load(first + column, mask=inside, other=0).to(tl.int64)
        following = tl.load(first + column + 1, mask=has_next, other=0).to(tl.int64)

        # Of the last start, the place plus one is kept: 0 is none.
        place = row * length + column
        words = tl.associative_scan(tl.where(is_start, lanes + 0x10001, 0), 0, _count_and_last)
        whole = tl.max(words)
        own_count = whole >> 16
        own_last = tl.where(whole > 0, row * length + begin + (whole & 0xFFFF), 0)
        _publish(state, tile, own_count, own_last, ONLY_OWN)
        count, last = _before(state, tile, WINDOW)
        _publish(state, tile, count + own_count, tl.maximum(last, own_last), SUM)

        label = tl.where(has_next & (here != end_token), following, ignore_index)
        tl.store(inputs + place, here.to(inputs.dtype.element_ty), mask=mask)
        tl.store(labels + place, label.to(labels.dtype.element_ty), mask=mask)
        document = count + (words >> 16) - 1
        start = tl.where(words > 0, row * length + begin + (words & 0xFFFF), last) - 1
        tl.store(position_ids + place, place - start, mask=mask)
        tl.store(document_ids + place, document, mask=mask)
        tl.store(cu_seqlens + document, place, mask=is_start & (document < max_documents))
        count += own_count
        if tile == num_tiles - 1:
            tl.store(num_documents, count)
            total = tl.zeros((), tl.int32) + num_rows * length
            for unused in range(tl.minimum(count, max_documents), max_documents + 1, BLOCK):
                ids = unused + lanes
                tl.store(cu_seqlens + ids, total, mask=ids <= max_documents)
        if TICKETS:
            tile = tl.atomic_add(state + tickets, 1).to(tl.int32)
        else:
            tile = num_tiles
    _leave(state, num_tiles, tickets, BLOCK)


FUNCTIONS = (
    pack_kernel,
    _first_token,
    _row,
    _starts_here,
    _count_and_last,
    _before,
    _window,
    _publish,
    _leave,
    *ORDER_FUNCTIONS,
)
