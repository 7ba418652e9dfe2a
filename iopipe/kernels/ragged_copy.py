"""Rows of one ragged layout to another: each program finds its rows, then copies words.

Stands behind `ragged.unpad`, `gather_rows` and `join_rows`.  Invariant: driven by tokens, not
by rows, so a program moves as much as any other whatever the lengths of rows are.

The tokens of the driving side (the result, or for joins the part) are cut into tiles.  A
program finds the first and the last row of its tile with a search of 128 ways, and each
token's row between them by bisection.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch.library import triton_op, wrap_triton

from iopipe.kernels.border import chosen, num_programs
from iopipe.kernels.ragged_runs import copy_runs, is_run
from iopipe.kernels.ragged_search import JOIN, UNPAD, ends_of_tile, far_begin
from iopipe.kernels.ragged_words import as_words
from iopipe.kernels.tuning import Config, Kernel, Problem

COPY_BLOCKS = ("tokens", "words")
_STARTS_BLOCK = 1024


@triton_op("iopipe::unpad_rows", mutates_args=("out",))
def unpad_rows(
    padded: torch.Tensor,
    offsets: torch.Tensor,
    out: torch.Tensor,
    max_programs: int | None,
    words: Sequence[int],
) -> None:
    if padded.numel() == 0:
        out.zero_()
        return
    (source, target), row_words = as_words((padded, out), out.shape[1:])
    length = padded.shape[1]
    rows = (offsets, offsets, offsets)
    num_rows = offsets.numel() - 1
    if is_run(words, out, num_rows, source.element_size()):
        row_bytes = row_words * source.element_size()
        copy_runs(0, padded, out, rows, row_bytes, num_rows, length, max_programs, words)
        return
    _copy(0, source, target, rows, row_words, out.shape[0], length, max_programs, words)


@triton_op("iopipe::gather_rows", mutates_args=("out",))
def gather(
    values: torch.Tensor,
    offsets: torch.Tensor,
    rows: torch.Tensor,
    out: torch.Tensor,
    ends: torch.Tensor,
    max_programs: int | None,
    words: Sequence[int],
) -> None:
    if rows.numel() == 0 or values.numel() == 0:
        out.zero_()
        return
    (source, target), row_words = as_words((values, out), values.shape[1:])
    tables = (ends, offsets, rows)
    num_source_rows = offsets.numel() - 1
    if is_run(words, out, rows.numel(), source.element_size()):
        row_bytes = row_words * source.element_size()
        sizes = (row_bytes, rows.numel(), num_source_rows)
        copy_runs(1, values, out, tables, *sizes, max_programs, words)
        return
    _copy(1, source, target, tables, row_words, out.shape[0], num_source_rows, max_programs, words)


@triton_op("iopipe::join_part", mutates_args=("out",))
def join_part(
    part: torch.Tensor,
    offsets: torch.Tensor,
    starts: torch.Tensor,
    out: torch.Tensor,
    max_programs: int | None,
    words: Sequence[int],
) -> None:
    (source, target), row_words = as_words((part, out), part.shape[1:])
    tables = (offsets, offsets, starts)
    _copy(2, source, target, tables, row_words, part.shape[0], 0, max_programs, words)


def _copy(
    kind: int,
    source: torch.Tensor,
    target: torch.Tensor,
    tables: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    row_words: int,
    num_tokens: int,
    limit: int,
    max_programs: int | None,
    words: Sequence[int],
) -> None:
    """`tables`: the offsets of the driving side, and where rows of the other side begin."""
    driver, offsets, rows = tables
    num_rows = driver.numel() - 1
    if num_tokens * row_words == 0 or num_rows == 0:
        return
    shape = {"tokens": num_tokens, "rows": num_rows, "words": row_words}
    problem = Problem(dtypes=(str(source.dtype).removeprefix("torch."),), shape=shape)
    config = chosen(COPY_KERNEL, problem, words, COPY_BLOCKS)
    tokens_a_tile, words_a_tile = (config.blocks[name] for name in COPY_BLOCKS)
    # Triton 3.6 compiles neither tiles that are wider than rows of one word, nor such tiles
    # with less than a word for each thread.
    words_a_tile = min(words_a_tile, triton.next_power_of_2(row_words))
    tokens_a_tile = max(tokens_a_tile, 32 * config.num_warps // words_a_tile)
    tiles_a_token = triton.cdiv(row_words, words_a_tile)
    num_tiles = triton.cdiv(num_tokens, tokens_a_tile) * tiles_a_token
    programs = num_programs(num_tiles, max_programs, at_most=2**31 - 1)
    other = target if kind == 2 else source
    wrap_triton(_copy_kernel)[(programs,)](
        source,
        target,
        driver,
        offsets,
        rows,
        num_tokens,
        other.numel() // row_words,
        num_rows,
        row_words,
        limit,
        tiles_a_token,
        num_tiles,
        KIND=kind,
        TOKENS=tokens_a_tile,
        WORDS=words_a_tile,
        num_warps=config.num_warps,
        num_stages=config.num_stages,
    )


@triton_op("iopipe::join_starts", mutates_args=("starts", "ends"))
def join_starts(
    offsets: torch.Tensor, starts: torch.Tensor, ends: torch.Tensor, max_programs: int | None
) -> None:
    """`offsets` int64 [parts, rows + 1] to where each row of each part goes, and the ends."""
    num_parts, num_ends = offsets.shape
    num_tiles = triton.cdiv(num_ends, _STARTS_BLOCK)
    programs = num_programs(num_tiles, max_programs, at_most=2**31 - 1)
    wrap_triton(_starts_kernel)[(programs,)](
        offsets, starts, ends, num_parts, num_ends, num_tiles, BLOCK=_STARTS_BLOCK
    )


@unpad_rows.register_fake  # type: ignore[untyped-decorator]
@gather.register_fake  # type: ignore[untyped-decorator]
@join_part.register_fake  # type: ignore[untyped-decorator]
@join_starts.register_fake  # type: ignore[untyped-decorator]
def _(*args: object) -> None:
    """Everything is written in place."""


@triton.jit  # type: ignore[untyped-decorator]
def _starts_kernel(offsets, starts, ends, num_parts, num_ends, num_tiles, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """Row i of part p begins behind all rows before i, and row i of the parts before p."""
    width = tl.zeros((), tl.int64) + num_ends
    for tile in range(tl.program_id(0), num_tiles, tl.num_programs(0)):
        row = (width * 0 + tile) * BLOCK + tl.arange(0, BLOCK)
        is_end = row < width
        is_row = row < width - 1
        start = tl.zeros((BLOCK,), tl.int64)
        for part in range(num_parts):
            base = offsets + part * width
            start += tl.load(base + row, mask=is_end, other=0) - tl.load(base)
        tl.store(ends + row, start.to(ends.dtype.element_ty), mask=is_end)
        for part in range(num_parts):
            base = offsets + part * width
            tl.store(starts + part * (width - 1) + row, start, mask=is_row)
            begin = tl.load(base + row, mask=is_row, other=0)
            start += tl.load(base + row + 1, mask=is_row, other=0) - begin


@triton.jit
def _rows_of(offsets, tokens, first, last):  # type: ignore[no-untyped-def]
    """The row of each token, between `first` and `last`, by bisection."""
    low = (tokens * 0).to(tl.int32) + first
    high = low + (last + 1 - first)
    width = last + 1 - first
    while width > 1:
        middle = (low + high) // 2
        right = tl.load(offsets + middle) <= tokens
        low = tl.where(right, middle, low)
        high = tl.where(right, high, middle)
        width = (width + 1) // 2
    return low


@triton.jit  # type: ignore[untyped-decorator]
def _copy_kernel(  # type: ignore[no-untyped-def]
    source,
    target,
    driver,
    offsets,
    rows,
    num_tokens,
    num_far_tokens,
    num_rows,
    row_words,
    limit,
    tiles_a_token,
    num_tiles,
    KIND: tl.constexpr,
    TOKENS: tl.constexpr,
    WORDS: tl.constexpr,
):
    for tile in range(tl.program_id(0), num_tiles, tl.num_programs(0)):
        first_token = (tile // tiles_a_token).to(tl.int64) * TOKENS
        tokens = first_token + tl.arange(0, TOKENS)
        ends = first_token + tl.arange(0, 2) * (TOKENS - 1)
        first, last = ends_of_tile(driver, ends, num_rows)
        row = _rows_of(driver, tokens, first, last)
        within = tokens - tl.load(driver + row)
        covered = (within >= 0) & (tokens < tl.load(driver + row + 1)) & (tokens < num_tokens)
        begin, exists = far_begin(offsets, rows, row, limit, KIND)
        far = begin + within
        covered = covered & exists & (far >= 0) & (far < num_far_tokens)
        if KIND == UNPAD:
            covered = covered & (within < limit)
        words = (tile % tiles_a_token) * WORDS + tl.arange(0, WORDS)
        in_row = (words < row_words)[None, :]
        near_word = (tokens * row_words)[:, None] + words[None, :]
        far_word = (far * row_words)[:, None] + words[None, :]
        moved = covered[:, None] & in_row
        if KIND == JOIN:
            value = tl.load(source + near_word, mask=moved, other=0)
            tl.store(target + far_word, value, mask=moved)
        else:
            value = tl.load(source + far_word, mask=moved, other=0)
            tl.store(target + near_word, value, mask=(tokens < num_tokens)[:, None] & in_row)


def _heuristic(problem: Problem) -> Config:
    """Tiles of 8 KiB; no more than 1024 tokens, each of which is searched."""
    words = min(triton.next_power_of_2(problem.shape["words"]), 1024)
    word_bytes = getattr(torch, problem.dtypes[0]).itemsize
    tokens = min(max(8192 // word_bytes // words, 1), 1024)
    return Config(blocks={"tokens": tokens, "words": words}, num_warps=4)


def _candidates(problem: Problem) -> Sequence[Config]:
    best = _heuristic(problem)
    tokens, words = (best.blocks[name] for name in COPY_BLOCKS)
    tried = [
        Config(blocks={"tokens": max(int(tokens * scale), 1), "words": words}, num_warps=warps)
        for scale in (0.25, 0.5, 1, 2)
        for warps in (4, 8)
    ]
    return [best, *tried]


COPY_KERNEL = Kernel(
    name="ragged_copy",
    functions=(_copy_kernel, ends_of_tile, _rows_of, far_begin),
    heuristic=_heuristic,
    candidates=_candidates,
)
