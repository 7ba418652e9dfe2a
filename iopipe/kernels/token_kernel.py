"""The token kernel: what each program of `tokens.pack_tokens` does.

Stands behind tokens.py.  Invariant: a program publishes before it waits, and waits only for
programs of lower numbers, which the hardware starts first: none waits forever.

Documents are counted over the whole batch, so a tile must know how many start before it.
Each program writes what needs no count, counts its own starts, publishes one word, and reads
the words of the programs before it, as in single-pass scans (Merrill & Garland 2016,
Decoupled Look-back).
"""

from __future__ import annotations

import triton
import triton.language as tl

from iopipe.kernels.window_order import FUNCTIONS as ORDER_FUNCTIONS
from iopipe.kernels.window_order import permuted


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
def _count_and_last(count, last, other_count, other_last):  # type: ignore[no-untyped-def]
    return count + other_count, tl.maximum(last, other_last)


@triton.jit  # type: ignore[untyped-decorator]
def _words_before(state, program, PROGRAMS: tl.constexpr):  # type: ignore[no-untyped-def]
    """(documents that start, place behind the last start) in all programs before this one."""
    ids = tl.arange(0, PROGRAMS)
    before = ids < program
    words = tl.load(state + ids, mask=before, other=-1, volatile=True)
    while tl.max(words) >= 0:
        words = tl.load(state + ids, mask=before, other=-1, volatile=True)
    count = tl.sum(tl.where(before, (words >> 32) & 0x7FFFFFFF, 0))
    last = tl.max(tl.where(before, words & 0xFFFFFFFF, 0))
    return count.to(tl.int32), last.to(tl.int32)


@triton.jit  # type: ignore[untyped-decorator]
def _leave(state, PROGRAMS: tl.constexpr, DEPARTED: tl.constexpr):  # type: ignore[no-untyped-def]
    """The last program to read leaves the state as it was found, for the next launch."""
    departed = tl.atomic_add(state + DEPARTED, 1)
    if departed == tl.num_programs(0) - 1:
        ids = tl.arange(0, PROGRAMS)
        tl.store(state + ids, tl.zeros((PROGRAMS,), tl.int64), mask=ids < tl.num_programs(0))
        tl.store(state + DEPARTED, tl.zeros((), tl.int64))


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
    tiles_a_program,
    STARTS: tl.constexpr,
    ROUNDS: tl.constexpr,
    PROGRAMS: tl.constexpr,
    DEPARTED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    # Places in the batch are int32: it has fewer than 2**31 tokens; the pool may have more.
    program = tl.program_id(0)
    first_tile = program * tiles_a_program
    end_tile = tl.minimum(first_tile + tiles_a_program, num_rows * tiles_a_row)
    lanes = tl.arange(0, BLOCK)

    # Inputs and labels need no count.  Of the last start, the place plus one is kept: 0 is none.
    count = tl.zeros((), tl.int32)
    last = tl.zeros((), tl.int32)
    first_row = first_tile // tiles_a_row
    row = first_row
    first, low, high = _row(
        row, tokens, starts, order, position, num_tokens, length, stride, step, STARTS, ROUNDS
    )
    kept_first, kept_low, kept_high = first, low, high
    for tile in range(first_tile, end_tile):
        if tile // tiles_a_row != row:
            row = tile // tiles_a_row
            first, low, high = _row(
                row, tokens, starts, order, position, num_tokens, length, stride, step,
                STARTS, ROUNDS,
            )  # fmt: skip
        column = (tile % tiles_a_row) * BLOCK + lanes
        mask = column < length
        inside = mask & (column >= low) & (column < high)
        has_next = inside & (column + 1 < high)
        here = tl.load(first + column, mask=inside, other=0).to(tl.int64)
        following = tl.load(first + column + 1, mask=has_next, other=0).to(tl.int64)
        label = tl.where(has_next & (here != end_token), following, ignore_index)
        place = row * length + column
        tl.store(inputs + place, here.to(inputs.dtype.element_ty), mask=mask)
        tl.store(labels + place, label.to(labels.dtype.element_ty), mask=mask)
        is_start = _starts_here(first, low, high, column, end_token, mask)
        count += tl.sum(is_start.to(tl.int32))
        last = tl.maximum(last, tl.max(tl.where(is_start, place + 1, 0)))

    tl.atomic_xchg(state + program, (count.to(tl.int64) << 32) | last.to(tl.int64) | (-1 << 63))
    count, last = _words_before(state, program, PROGRAMS)
    _leave(state, PROGRAMS, DEPARTED)

    row = first_row
    first, low, high = kept_first, kept_low, kept_high
    for tile in range(first_tile, end_tile):
        if tile // tiles_a_row != row:
            row = tile // tiles_a_row
            first, low, high = _row(
                row, tokens, starts, order, position, num_tokens, length, stride, step,
                STARTS, ROUNDS,
            )  # fmt: skip
        column = (tile % tiles_a_row) * BLOCK + lanes
        mask = column < length
        place = row * length + column
        is_start = _starts_here(first, low, high, column, end_token, mask)
        counts, lasts = tl.associative_scan(
            (is_start.to(tl.int32), tl.where(is_start, place + 1, 0)), 0, _count_and_last
        )
        document = count + counts - 1
        start = tl.maximum(lasts, last) - 1
        tl.store(position_ids + place, place - start, mask=mask)
        tl.store(document_ids + place, document, mask=mask)
        tl.store(cu_seqlens + document, place, mask=is_start & (document < max_documents))
        count += tl.max(counts)
        last = tl.maximum(last, tl.max(lasts))

    if program == tl.num_programs(0) - 1:
        tl.store(num_documents, count)
        total = tl.zeros((), tl.int32) + num_rows * length
        for unused in range(tl.minimum(count, max_documents), max_documents + 1, BLOCK):
            ids = unused + lanes
            tl.store(cu_seqlens + ids, total, mask=ids <= max_documents)


FUNCTIONS = (
    pack_kernel,
    _first_token,
    _row,
    _starts_here,
    _count_and_last,
    _words_before,
    _leave,
    *ORDER_FUNCTIONS,
)
