"""Ragged to padded: one contiguous run of words a row.

Stands behind `ragged.pad`.  Invariant: driven by the output, so every word of it is written
once, in order, and reads that would be padding are not made.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch.library import triton_op, wrap_triton

from iopipe.kernels.border import chosen, num_programs
from iopipe.kernels.ragged_runs import copy_runs, is_run
from iopipe.kernels.ragged_words import as_words, fill_word, halves
from iopipe.kernels.tuning import Config, Kernel, Problem

PAD_BLOCKS = ("rows", "words")


@triton_op("iopipe::pad_rows", mutates_args=("out",))
def pad_rows(
    values: torch.Tensor,
    offsets: torch.Tensor,
    out: torch.Tensor,
    fill: torch.types.Number,
    max_programs: int | None,
    words: Sequence[int],
) -> None:
    if out.numel() == 0:
        return
    (source, target), row_words = as_words((values, out), values.shape[1:])
    num_rows, length = out.shape[:2]
    word_bytes = source.element_size()
    if is_run(words, out, num_rows, word_bytes):
        fills = halves(fill_word(fill, values.dtype, 8))
        sizes = (row_words * word_bytes, num_rows, length)
        tables = (offsets, offsets, offsets)
        copy_runs(3, values, out, tables, *sizes, max_programs, words, fills)
        return
    shape = {"rows": num_rows, "words": length * row_words}
    problem = Problem(dtypes=(str(source.dtype).removeprefix("torch."),), shape=shape)
    config = chosen(PAD_KERNEL, problem, words, PAD_BLOCKS)
    rows_a_tile, words_a_tile = (config.blocks[name] for name in PAD_BLOCKS)
    tiles_a_row = triton.cdiv(length * row_words, words_a_tile)
    num_tiles = triton.cdiv(num_rows, rows_a_tile) * tiles_a_row
    low, high = halves(fill_word(fill, values.dtype, word_bytes))
    programs = num_programs(num_tiles, max_programs, at_most=2**31 - 1)
    wrap_triton(_pad_kernel)[(programs,)](
        source,
        offsets,
        target,
        low,
        high,
        values.shape[0],
        num_rows,
        length * row_words,
        row_words,
        tiles_a_row,
        num_tiles,
        ROWS=rows_a_tile,
        WORDS=words_a_tile,
        num_warps=config.num_warps,
        num_stages=config.num_stages,
    )


@pad_rows.register_fake  # type: ignore[untyped-decorator]
def _(*args: object) -> None:
    """Everything is written in place."""


@triton.jit  # type: ignore[untyped-decorator]
def _pad_tile(  # type: ignore[no-untyped-def]
    tile,
    source,
    offsets,
    target,
    fill,
    num_tokens,
    num_rows,
    num_words,
    row_words,
    tiles_a_row,
    ROWS: tl.constexpr,
    WORDS: tl.constexpr,
):
    rows = (tile // tiles_a_row).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    words = (tile % tiles_a_row).to(tl.int64) * WORDS + tl.arange(0, WORDS)
    exists = rows < num_rows
    begin = tl.load(offsets + rows, mask=exists, other=0).to(tl.int64)
    end = tl.load(offsets + rows + 1, mask=exists, other=0).to(tl.int64)
    end = tl.where(begin >= 0, tl.minimum(end, num_tokens), begin)
    inside = words[None, :] < ((end - begin) * row_words)[:, None]
    from_word = (begin * row_words)[:, None] + words[None, :]
    to_word = (rows * num_words)[:, None] + words[None, :]
    value = tl.load(source + from_word, mask=inside, other=0)
    value = tl.where(inside, value, fill.to(source.dtype.element_ty))
    tl.store(target + to_word, value, mask=exists[:, None] & (words < num_words)[None, :])


@triton.jit  # type: ignore[untyped-decorator]
def _pad_kernel(  # type: ignore[no-untyped-def]
    source,
    offsets,
    target,
    low,
    high,
    num_tokens,
    num_rows,
    num_words,
    row_words,
    tiles_a_row,
    num_tiles,
    ROWS: tl.constexpr,
    WORDS: tl.constexpr,
):
    upper = (tl.zeros((), tl.int64) + high) << 32
    fill = upper | ((tl.zeros((), tl.int64) + low) & 0xFFFFFFFF)
    for tile in range(tl.program_id(0), num_tiles, tl.num_programs(0)):
        _pad_tile(
            tile,
            source,
            offsets,
            target,
            fill,
            num_tokens,
            num_rows,
            num_words,
            row_words,
            tiles_a_row,
            ROWS,
            WORDS,
        )


def _heuristic(problem: Problem) -> Config:
    """Tiles of 4 KiB: a piece of a long row, or a few short ones."""
    tile = 4096 // getattr(torch, problem.dtypes[0]).itemsize
    words = min(triton.next_power_of_2(problem.shape["words"]), tile)
    return Config(blocks={"rows": tile // words, "words": words}, num_warps=4)


def _candidates(problem: Problem) -> Sequence[Config]:
    best = _heuristic(problem)
    rows, words = (best.blocks[name] for name in PAD_BLOCKS)
    tried = [
        Config(blocks={"rows": rows * more, "words": words * longer}, num_warps=warps)
        for more, longer in ((1, 1), (2, 1), (4, 1), (1, 2), (1, 4))
        for warps in (4, 8)
    ]
    return [best, *tried]


PAD_KERNEL = Kernel(
    name="ragged_pad",
    functions=(_pad_kernel, _pad_tile),
    heuristic=_heuristic,
    candidates=_candidates,
)
