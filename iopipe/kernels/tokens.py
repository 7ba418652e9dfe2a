"""Tokens to what a language model takes: inputs, labels, positions, documents, in one launch.

Stands after the transfer, or instead of it where a pool of tokens lives on the device.
Invariant: nothing waits for the host, and the grid changes no bit: which program handles
which tile decides only when it is written.

Documents are counted over the whole batch, so a tile must know how many start before it.
Each program first counts its own (and writes what needs no count), publishes one word, and
then reads the words of the programs before it, as in single-pass scans (Merrill & Garland
2016, Decoupled Look-back).  No program waits before it has published, so none waits forever.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch.library import triton_op, wrap_triton

from iopipe.errors import PipelineError
from iopipe.kernels.launch import check_budget, check_tensor, chosen, num_programs, to_words
from iopipe.kernels.token_batch import (
    STATE_WORDS,
    TokenBatch,
    TokenOptions,
    TokenRows,
    Windows,
    WindowsAt,
    WindowsInOrder,
)
from iopipe.kernels.tuning import Config, Kernel, Problem
from iopipe.kernels.window_order import NUM_WORDS, _moved, _word, permuted

_BLOCKS = ("block", "programs")
_TOKEN_DTYPES = (torch.uint16, torch.uint32)


def pack_tokens(
    windows: Windows,
    options: TokenOptions,
    *,
    out: TokenBatch | None = None,
    max_programs: int | None = None,
    config: Config | None = None,
) -> TokenBatch:
    """Widen, shift and annotate windows of tokens; see `TokenBatch` for what comes out.

    `windows` are uint16 or uint32, in one of three forms: `TokenRows` (a batch that was
    transferred), `WindowsAt` (places in a pool) or `WindowsInOrder` (an epoch's permutation of
    a pool, computed on the device).  What a window reaches beyond its pool reads as token 0
    and has the label `ignore_index`.

    Give `out` from `TokenBatch.empty` to write into a slot: then nothing is allocated, and the
    call is one launch.  Two launches that may run at once need two of them.  `max_programs`
    bounds the programs, and so the share of the GPU.  Raises `PipelineError` for tensors of
    another kind or place.
    """
    check_budget(max_programs)
    tokens, starts, order, position, num_rows, length, stride, step = _source(windows)
    if out is None:
        out = TokenBatch.empty(num_rows, length, options, device=tokens.device)
    _check_out(out, tokens, options, (num_rows, length))
    _pack(
        tokens,
        starts,
        order,
        position,
        out.inputs,
        out.labels,
        out.position_ids,
        out.document_ids,
        out.cu_seqlens,
        out.num_documents,
        out.state,
        stride,
        step,
        -1 if options.end_token is None else options.end_token,
        options.ignore_index,
        max_programs,
        to_words(config, _BLOCKS),
    )
    return out


_Source = tuple[
    torch.Tensor, torch.Tensor | None, torch.Tensor | None, torch.Tensor | None, int, int, int, int
]


def _source(windows: Windows) -> _Source:
    """(tokens, starts, order, position, rows, length, stride, step), checked."""
    if isinstance(windows, TokenRows):
        tokens = windows.tokens
        if tokens.dim() != 2 or tokens.shape[1] < 2:
            raise PipelineError(
                f"tokens have shape {tuple(tokens.shape)}: give [rows, length + 1], length 1 or more"
            )
        check_tensor("tokens", tokens, like=tokens, dtypes=_TOKEN_DTYPES)
        num_rows, width = tokens.shape
        return tokens, None, None, None, num_rows, width - 1, width, 0
    pool = windows.pool
    check_tensor("the pool", pool, like=pool, dtypes=_TOKEN_DTYPES, shape=(pool.numel(),))
    if windows.length < 1:
        raise PipelineError(f"length is {windows.length}: give 1 or more")
    if isinstance(windows, WindowsAt):
        starts = windows.starts
        shape = (starts.numel(),)
        check_tensor("starts", starts, like=pool, dtypes=(torch.int64,), shape=shape)
        return pool, starts, None, None, starts.numel(), windows.length, 0, 0
    return _ordered(windows)


def _ordered(windows: WindowsInOrder) -> _Source:
    pool, order, position = windows.pool, windows.order, windows.position
    kind = (torch.int64,)
    check_tensor("the order", order, like=pool, dtypes=kind, shape=(order.numel(),))
    check_tensor("the position", position, like=pool, dtypes=kind, shape=(1,))
    if order.numel() < NUM_WORDS or (order.numel() - NUM_WORDS) % 2:
        raise PipelineError(f"the order has {order.numel()} words: make it with window_order")
    if windows.num_rows < 0 or windows.step < 1:
        raise PipelineError(
            f"num_rows is {windows.num_rows} and step {windows.step}: give 0 or more, 1 or more"
        )
    stride = windows.length if windows.stride is None else windows.stride
    return pool, None, order, position, windows.num_rows, windows.length, stride, windows.step


def _check_out(
    out: TokenBatch, tokens: torch.Tensor, options: TokenOptions, shape: tuple[int, int]
) -> None:
    rows = {"inputs": options.dtype, "labels": options.dtype}
    rows |= {"position_ids": torch.int32, "document_ids": torch.int32}
    for name, dtype in rows.items():
        check_tensor(name, getattr(out, name), like=tokens, dtypes=(dtype,), shape=shape)
    ends, narrow = (options.max_documents + 1,), (torch.int32,)
    check_tensor("cu_seqlens", out.cu_seqlens, like=tokens, dtypes=narrow, shape=ends)
    check_tensor("num_documents", out.num_documents, like=tokens, dtypes=narrow, shape=(1,))
    words = (STATE_WORDS,)
    check_tensor("state", out.state, like=tokens, dtypes=(torch.int64,), shape=words)


@triton_op(
    "iopipe::pack_tokens",
    mutates_args=(
        "inputs",
        "labels",
        "position_ids",
        "document_ids",
        "cu_seqlens",
        "num_documents",
        "state",
    ),
)
def _pack(
    tokens: torch.Tensor,
    starts: torch.Tensor | None,
    order: torch.Tensor | None,
    position: torch.Tensor | None,
    inputs: torch.Tensor,
    labels: torch.Tensor,
    position_ids: torch.Tensor,
    document_ids: torch.Tensor,
    cu_seqlens: torch.Tensor,
    num_documents: torch.Tensor,
    state: torch.Tensor,
    stride: int,
    step: int,
    end_token: int,
    ignore_index: int,
    max_programs: int | None,
    words: Sequence[int],
) -> None:
    num_rows, length = inputs.shape
    if num_rows == 0:
        num_documents.zero_()
        cu_seqlens.zero_()
        return
    dtypes = (str(tokens.dtype).removeprefix("torch."), str(inputs.dtype).removeprefix("torch."))
    problem = Problem(dtypes=dtypes, shape={"rows": num_rows, "length": length})
    config = chosen(KERNEL, problem, words, _BLOCKS)
    block = config.blocks["block"]
    tiles_a_row = triton.cdiv(length, block)
    num_tiles = num_rows * tiles_a_row
    at_most = min(config.blocks["programs"], STATE_WORDS - 1)
    programs = num_programs(num_tiles, max_programs, at_most=at_most)
    tiles_a_program = triton.cdiv(num_tiles, programs)
    programs = triton.cdiv(num_tiles, tiles_a_program)
    wrap_triton(_pack_kernel)[(programs,)](
        tokens,
        tokens if starts is None else starts,
        tokens if order is None else order,
        tokens if position is None else position,
        inputs,
        labels,
        position_ids,
        document_ids,
        cu_seqlens,
        num_documents,
        state,
        tokens.numel(),
        num_rows,
        length,
        stride,
        step,
        end_token,
        ignore_index,
        cu_seqlens.numel() - 1,
        tiles_a_row,
        tiles_a_program,
        STARTS=starts is not None,
        ROUNDS=0 if order is None else order.numel() - NUM_WORDS,
        PROGRAMS=triton.next_power_of_2(programs),
        DEPARTED=STATE_WORDS - 1,
        BLOCK=block,
        num_warps=config.num_warps,
        num_stages=config.num_stages,
    )


@_pack.register_fake
def _(*args: object) -> None:
    """Everything is written in place."""


@triton.jit
def _first_token(row, starts, order, position, num_tokens, stride, step, STARTS, ROUNDS):
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
def _row(row, tokens, starts, order, position, num_tokens, length, stride, step, STARTS, ROUNDS):
    """(pointer to the row's first token, columns from which and before which there are any)"""
    begin = _first_token(row, starts, order, position, num_tokens, stride, step, STARTS, ROUNDS)
    low = tl.minimum(tl.maximum(-begin, 0), length + 1).to(tl.int32)
    high = tl.minimum(tl.maximum(num_tokens - begin, 0), length + 1).to(tl.int32)
    return tokens + begin, low, high


@triton.jit
def _token(first, column, mask, CHECKED: tl.constexpr):
    """int32 of uint16, int64 of uint32: the narrowest that keeps the value."""
    if CHECKED:
        token = tl.load(first + column, mask=mask, other=0)
    else:
        token = tl.load(first + column)
    if token.dtype == tl.uint16:
        result = token.to(tl.int32)
    else:
        result = token.to(tl.int64)
    return result


@triton.jit
def _follows_an_end(first, low, high, column, length, end_token, CHECKED: tl.constexpr):
    """Whether a document starts at these columns, but for column 0, where one always does."""
    inside = column > 0
    if CHECKED:
        inside = inside & (column < length) & (column > low) & (column <= high)
    return inside & (_token(first, column - 1, inside, True) == end_token)


@triton.jit
def _write_tokens(
    first, low, high, column, place, inputs, labels, length, end_token, ignore_index,
    CHECKED: tl.constexpr,
):  # fmt: skip
    """Inputs and labels of a tile; CHECKED where a part of it has no tokens."""
    mask = column < length
    inside = mask & (column >= low) & (column < high)
    has_next = inside & (column + 1 < high)
    here = _token(first, column, inside, CHECKED)
    label = _token(first, column + 1, has_next, CHECKED)
    is_learned = here != end_token
    if CHECKED:
        is_learned = is_learned & has_next
    label = tl.where(is_learned, label, ignore_index).to(labels.dtype.element_ty)
    here = here.to(inputs.dtype.element_ty)
    if CHECKED:
        tl.store(inputs + place, here, mask=mask)
        tl.store(labels + place, label, mask=mask)
    else:
        tl.store(inputs + place, here)
        tl.store(labels + place, label)


@triton.jit
def _later(packed, other):
    """Of two neighbours: starts in both, in the upper half; in the lower the last one's lane
    plus one.  The sum is greater where `other` has a start, and where it has none, less."""
    return tl.maximum(packed, (packed & -65536) + other)


@triton.jit
def _write_documents(
    is_start, lanes, column, place, count, last, position_ids, document_ids, cu_seqlens, length,
    max_documents, CHECKED: tl.constexpr,
):  # fmt: skip
    """Positions, ids and starts of a tile; (count, last) behind it."""
    packed = tl.associative_scan(tl.where(is_start, lanes + 65537, 0), 0, _later)
    lane = packed & 65535
    start = tl.where(lane > 0, place - lanes + lane, last) - 1
    document = count + (packed >> 16) - 1
    mask = column < length
    if CHECKED:
        tl.store(position_ids + place, place - start, mask=mask)
        tl.store(document_ids + place, document, mask=mask)
    else:
        tl.store(position_ids + place, place - start)
        tl.store(document_ids + place, document)
    tl.store(cu_seqlens + document, place, mask=is_start & (document < max_documents))
    whole = tl.max(packed)
    lane = whole & 65535
    return count + (whole >> 16), tl.where(lane > 0, tl.min(place) + lane, last)


@triton.jit
def _words_before(state, program, PROGRAMS: tl.constexpr):
    """(documents that start, place behind the last start) in all programs before this one."""
    ids = tl.arange(0, PROGRAMS)
    before = ids < program
    words = tl.load(state + ids, mask=before, other=-1, volatile=True)
    while tl.max(words) >= 0:
        words = tl.load(state + ids, mask=before, other=-1, volatile=True)
    count = tl.sum(tl.where(before, (words >> 32) & 0x7FFFFFFF, 0))
    last = tl.max(tl.where(before, words & 0xFFFFFFFF, 0))
    return count.to(tl.int32), last.to(tl.int32)


@triton.jit
def _leave(state, PROGRAMS: tl.constexpr, DEPARTED: tl.constexpr):
    """The last program to read leaves the state as it was found, for the next launch."""
    departed = tl.atomic_add(state + DEPARTED, 1)
    if departed == tl.num_programs(0) - 1:
        ids = tl.arange(0, PROGRAMS)
        tl.store(state + ids, tl.zeros((PROGRAMS,), tl.int64), mask=ids < tl.num_programs(0))
        tl.store(state + DEPARTED, tl.zeros((), tl.int64))


@triton.jit
def _pack_kernel(
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
    counts = tl.zeros((BLOCK,), tl.int32)
    lasts = tl.zeros((BLOCK,), tl.int32)
    row_starts = tl.zeros((), tl.int32)
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
        begin = (tile % tiles_a_row) * BLOCK
        column = begin + lanes
        place = row * length + column
        if (low == 0) & (begin + BLOCK < high) & (begin + BLOCK <= length):
            _write_tokens(
                first, low, high, column, place, inputs, labels, length, end_token,
                ignore_index, False,
            )  # fmt: skip
            is_start = _follows_an_end(first, low, high, column, length, end_token, False)
        else:
            _write_tokens(
                first, low, high, column, place, inputs, labels, length, end_token,
                ignore_index, True,
            )  # fmt: skip
            is_start = _follows_an_end(first, low, high, column, length, end_token, True)
        counts += is_start.to(tl.int32)
        lasts = tl.where(is_start, place + 1, lasts)
        if begin == 0:
            row_starts += 1
            lasts = tl.maximum(lasts, row * length + 1)

    count = (row_starts + tl.sum(counts)).to(tl.int64)
    last = tl.max(lasts).to(tl.int64)
    tl.atomic_xchg(state + program, (count << 32) | last | (-1 << 63))
    count, last = _words_before(state, program, PROGRAMS)

    row = first_row
    first, low, high = kept_first, kept_low, kept_high
    for tile in range(first_tile, end_tile):
        if tile // tiles_a_row != row:
            row = tile // tiles_a_row
            first, low, high = _row(
                row, tokens, starts, order, position, num_tokens, length, stride, step,
                STARTS, ROUNDS,
            )  # fmt: skip
        begin = (tile % tiles_a_row) * BLOCK
        column = begin + lanes
        place = row * length + column
        if begin == 0:
            tl.store(cu_seqlens + count, row * length, mask=count < max_documents)
            count += 1
            last = row * length + 1
        if (low == 0) & (begin + BLOCK < high) & (begin + BLOCK <= length):
            is_start = _follows_an_end(first, low, high, column, length, end_token, False)
            count, last = _write_documents(
                is_start, lanes, column, place, count, last, position_ids, document_ids,
                cu_seqlens, length, max_documents, False,
            )  # fmt: skip
        else:
            is_start = _follows_an_end(first, low, high, column, length, end_token, True)
            count, last = _write_documents(
                is_start, lanes, column, place, count, last, position_ids, document_ids,
                cu_seqlens, length, max_documents, True,
            )  # fmt: skip

    if program == tl.num_programs(0) - 1:
        tl.store(num_documents, count)
        total = tl.zeros((), tl.int32) + num_rows * length
        for unused in range(tl.minimum(count, max_documents), max_documents + 1, BLOCK):
            ids = unused + lanes
            tl.store(cu_seqlens + ids, total, mask=ids <= max_documents)
    _leave(state, PROGRAMS, DEPARTED)


def _heuristic(problem: Problem) -> Config:
    """Eight values a thread, and about as many programs as an H200 holds at once: each waits
    for all before it, so more of them gain nothing."""
    block = min(1024, max(256, triton.next_power_of_2(problem.shape["length"])))
    return Config(blocks={"block": block, "programs": 1056}, num_warps=block // 256)


def _candidates(problem: Problem) -> Sequence[Config]:
    tried = [
        Config(blocks={"block": block, "programs": programs}, num_warps=num_warps)
        for block, num_warps in ((512, 4), (1024, 4), (1024, 8), (2048, 8), (4096, 16))
        for programs in (528, 792, 1056)
    ]
    return [_heuristic(problem), *tried]


KERNEL = Kernel(
    name="tokens",
    functions=(
        _pack_kernel,
        _first_token,
        _row,
        _token,
        _follows_an_end,
        _write_tokens,
        _later,
        _write_documents,
        _words_before,
        _leave,
        permuted,
        _moved,
        _word,
    ),
    heuristic=_heuristic,
    candidates=_candidates,
)
