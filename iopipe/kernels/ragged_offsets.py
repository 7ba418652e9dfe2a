"""Offsets of rows taken by index: a sum of lengths, scanned.

Stands before the copy of `ragged.gather_rows`.  Invariant: two launches at most and none
waits for another program: where one program cannot scan all rows, the first launch leaves a
sum for each program of the second.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch.library import triton_op, wrap_triton

from iopipe.kernels.border import num_programs

_BLOCK = 4096
_MAX_PROGRAMS = 1024


@triton_op("iopipe::gathered_offsets", mutates_args=("ends",))
def gathered_offsets(
    offsets: torch.Tensor, rows: torch.Tensor, ends: torch.Tensor, max_programs: int | None
) -> None:
    num_rows = rows.numel()
    if num_rows == 0:
        ends.zero_()
        return
    block = min(_BLOCK, max(triton.next_power_of_2(num_rows), 64))
    num_tiles = triton.cdiv(num_rows, block)
    programs = num_programs(num_tiles, max_programs, at_most=_MAX_PROGRAMS)
    tiles = triton.cdiv(num_tiles, programs)
    programs = triton.cdiv(num_tiles, tiles)
    sums = offsets.new_empty(programs, dtype=torch.int64)
    sizes = (num_rows, offsets.numel() - 1, tiles)
    blocks = {"BLOCK": block, "num_warps": 8}
    if programs > 1:
        wrap_triton(_sum_kernel)[(programs,)](offsets, rows, sums, *sizes, **blocks)
    wrap_triton(_scan_kernel)[(programs,)](
        offsets,
        rows,
        sums,
        ends,
        *sizes,
        PROGRAMS=triton.next_power_of_2(programs),
        **blocks,
    )


@gathered_offsets.register_fake  # type: ignore[untyped-decorator]
def _(*args: object) -> None:
    """Everything is written in place."""


@triton.jit
def _lengths(offsets, rows, index, num_rows, num_source_rows):  # type: ignore[no-untyped-def]
    """int64: of the rows taken; 0 behind the last and where there is no such row."""
    row = tl.load(rows + index, mask=index < num_rows, other=-1)
    exists = (row >= 0) & (row < num_source_rows)
    begin = tl.load(offsets + row, mask=exists, other=0).to(tl.int64)
    end = tl.load(offsets + row + 1, mask=exists, other=0).to(tl.int64)
    return tl.maximum(end - begin, 0)


@triton.jit  # type: ignore[untyped-decorator]
def _sum_kernel(offsets, rows, sums, num_rows, num_source_rows, tiles, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    program = tl.program_id(0).to(tl.int64)
    total = tl.zeros((), tl.int64)
    for tile in range(tiles):
        index = (program * tiles + tile) * BLOCK + tl.arange(0, BLOCK)
        total += tl.sum(_lengths(offsets, rows, index, num_rows, num_source_rows))
    tl.store(sums + program, total)


@triton.jit  # type: ignore[untyped-decorator]
def _scan_kernel(  # type: ignore[no-untyped-def]
    offsets,
    rows,
    sums,
    ends,
    num_rows,
    num_source_rows,
    tiles,
    PROGRAMS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    program = tl.program_id(0).to(tl.int64)
    total = tl.zeros((), tl.int64)
    if PROGRAMS > 1:
        ids = tl.arange(0, PROGRAMS)
        total += tl.sum(tl.load(sums + ids, mask=ids < program, other=0))
    if program == 0:
        tl.store(ends, tl.zeros((), ends.dtype.element_ty))
    for tile in range(tiles):
        index = (program * tiles + tile) * BLOCK + tl.arange(0, BLOCK)
        lengths = _lengths(offsets, rows, index, num_rows, num_source_rows)
        end = total + tl.cumsum(lengths)
        if ends.dtype.element_ty == tl.int32:
            end = tl.minimum(end, 2147483647)
        tl.store(ends + index + 1, end.to(ends.dtype.element_ty), mask=index < num_rows)
        total += tl.sum(lengths)
