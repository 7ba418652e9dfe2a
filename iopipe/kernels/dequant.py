"""Quantised values to what a model computes with: (value - zero) * scale.

Stands after the transfer: what was stored in a byte crosses the bus in a byte.  Invariant:
one float32 subtraction and one multiplication, in this order, and one rounding to the output;
there is no multiply-add that a compiler could fuse, so all configurations give the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch.library import triton_op, wrap_triton

from iopipe.errors import PipelineError
from iopipe.kernels.border import check_budget, check_tensor, chosen, num_programs, to_words
from iopipe.kernels.tuning import Config, Kernel, Problem

_BLOCKS = ("rows", "columns")
_FORMATS = {torch.uint8: 0, torch.int8: 0, torch.float8_e4m3fn: 1, torch.float8_e5m2: 2}
_E4M3, _E5M2 = tl.constexpr(1), tl.constexpr(2)
_NARROW, _WIDE = 512, 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Affine:
    """What a stored byte stands for: (value - zero) * scale, over a channel or a block.

    Give `dim` for one scale a channel (`scale` [size of that dimension]), `block` for one
    scale for so many neighbours of the last dimension (`scale` [..., size // block], as ONNX's
    blocked DequantizeLinear has it), neither for one scale in all (`scale` [1]).
    """

    scale: torch.Tensor
    """float32."""
    zero: torch.Tensor | None = None
    """float32, of the shape of `scale`; None: 0."""
    dim: int | None = None
    block: int | None = None


def dequantize(
    values: torch.Tensor,
    affine: Affine,
    *,
    dtype: torch.dtype = torch.bfloat16,
    out: torch.Tensor | None = None,
    max_programs: int | None = None,
    config: Config | None = None,
) -> torch.Tensor:
    """`values` (uint8, int8, float8_e4m3fn or float8_e5m2, any shape) as bfloat16 or float16.

    float8 is decoded from its bits, exactly, NaN and infinities included (formats: Micikevicius
    et al. 2022, FP8 Formats for Deep Learning).  Raises `PipelineError` where dtypes, shapes or
    devices do not fit.
    """
    check_budget(max_programs)
    check_tensor("values", values, like=values, dtypes=tuple(_FORMATS))
    if dtype not in (torch.bfloat16, torch.float16):
        raise PipelineError(f"dtype is {dtype}: give torch.bfloat16 or torch.float16")
    shape, run, period = _layout(values.shape, affine)
    single = (torch.float32,)
    check_tensor("scale", affine.scale, like=values, dtypes=single, shape=shape)
    if affine.zero is not None:
        check_tensor("zero", affine.zero, like=values, dtypes=single, shape=shape)
    if out is None:
        out = torch.empty(values.shape, dtype=dtype, device=values.device)
    check_tensor("out", out, like=values, dtypes=(dtype,), shape=values.shape)
    words = to_words(config, _BLOCKS)
    _dequantize(values, affine.scale, affine.zero, out, run, period, max_programs, words)
    return out


def _layout(shape: Sequence[int], affine: Affine) -> tuple[tuple[int, ...], int, int]:
    """(shape of the scales, neighbours that share one, scales until they begin anew)"""
    dim, block = affine.dim, affine.block
    if dim is not None and block is not None:
        raise PipelineError(f"dim is {dim} and block {block}: give one of them")
    if dim is not None:
        if not -len(shape) <= dim < len(shape):
            raise PipelineError(f"dim is {dim}: the values have {len(shape)} dimensions")
        dim %= len(shape)
        return (shape[dim],), math.prod(shape[dim + 1 :]), shape[dim]
    if block is not None:
        if not shape or block < 1 or shape[-1] % block:
            raise PipelineError(f"block is {block}: give a divisor of the last of {tuple(shape)}")
        blocks = (*shape[:-1], shape[-1] // block)
        return blocks, block, math.prod(blocks)
    return (1,), math.prod(shape), 1


def problem_of(values: torch.Tensor, affine: Affine, dtype: torch.dtype) -> Problem:
    """What a launch is looked up by: the matrix that the values are worked on as."""
    _, run, period = _layout(values.shape, affine)
    return _problem(values, dtype, run, period)


def _problem(values: torch.Tensor, dtype: torch.dtype, run: int, period: int) -> Problem:
    by_column = run == 1 and period > 1
    width = _folded(period, values.numel() // period) if by_column else run
    names = (str(values.dtype).removeprefix("torch."), str(dtype).removeprefix("torch."))
    rows = values.numel() // width
    return Problem(
        dtypes=names, shape={"rows": rows, "columns": width, "by_column": int(by_column)}
    )


@triton_op("iopipe::dequantize", mutates_args=("out",))
def _dequantize(
    values: torch.Tensor,
    scale: torch.Tensor,
    zero: torch.Tensor | None,
    out: torch.Tensor,
    run: int,
    period: int,
    max_programs: int | None,
    words: Sequence[int],
) -> None:
    if values.numel() == 0:
        return
    problem = _problem(values, out.dtype, run, period)
    num_rows, width = problem.shape["rows"], problem.shape["columns"]
    by_column = bool(problem.shape["by_column"])
    config = chosen(KERNEL, problem, words, _BLOCKS)
    rows, columns = (config.blocks[name] for name in _BLOCKS)
    tiles_a_row = triton.cdiv(width, columns)
    num_tiles = triton.cdiv(num_rows, rows) * tiles_a_row
    programs = num_programs(num_tiles, max_programs, at_most=2**31 - 1)
    kind = _FORMATS[values.dtype]
    wrap_triton(_dequantize_kernel)[(programs,)](
        values.view(torch.uint8) if kind else values,
        scale,
        scale if zero is None else zero,
        out,
        num_rows,
        width,
        period,
        tiles_a_row,
        num_tiles,
        FORMAT=kind,
        HAS_ZERO=zero is not None,
        BY_COLUMN=by_column,
        REPEATS=period < (width if by_column else num_rows),
        ROWS=rows,
        COLUMNS=columns,
        num_warps=config.num_warps,
        num_stages=config.num_stages,
    )


@_dequantize.register_fake
def _(*args: object) -> None:
    """Everything is written in place."""


def _folded(period: int, num_rows: int) -> int:
    """Columns of the matrix that is worked on: few channels are repeated, so that a row of
    it is long (3 channels: 3072), as far as the number of rows has factors of two."""
    if period >= _NARROW:
        return period
    fold = min(num_rows & -num_rows, 1 << ((_WIDE // period).bit_length() - 1))
    return period * fold


@triton.jit  # type: ignore[untyped-decorator]
def _as_float(value, FORMAT: tl.constexpr):  # type: ignore[no-untyped-def]
    """float32, exact."""
    if FORMAT == _E4M3:
        # The seven bits as exponent and mantissa of a float32 are 2**120 too small; a
        # subnormal stays one until then.  All ones is the format's only NaN.
        bits = value.to(tl.uint32)
        magnitude = bits & 0x7F
        sign = (bits & 0x80) << 24
        number = ((magnitude << 20) | sign).to(tl.float32, bitcast=True) * 1.329227995784916e36
        result = tl.where(magnitude == 0x7F, float("nan"), number)
    elif FORMAT == _E5M2:
        # The upper half of a float16.
        result = (value.to(tl.uint16) << 8).to(tl.float16, bitcast=True).to(tl.float32)
    else:
        result = value.to(tl.float32)
    return result


@triton.jit  # type: ignore[untyped-decorator]
def _dequantize_kernel(  # type: ignore[no-untyped-def]
    values,
    scale,
    zero,
    out,
    num_rows,
    width,
    period,
    tiles_a_row,
    num_tiles,
    FORMAT: tl.constexpr,
    HAS_ZERO: tl.constexpr,
    BY_COLUMN: tl.constexpr,
    REPEATS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    for tile in range(tl.program_id(0), num_tiles, tl.num_programs(0)):
        rows = (tile // tiles_a_row).to(tl.int64) * ROWS + tl.arange(0, ROWS)
        columns = (tile % tiles_a_row).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)
        in_rows, in_columns = rows < num_rows, columns < width
        mask = in_rows[:, None] & in_columns[None, :]
        place = (rows * width)[:, None] + columns[None, :]
        value = _as_float(tl.load(values + place, mask=mask, other=0), FORMAT)
        channel = columns if BY_COLUMN else rows
        known = in_columns if BY_COLUMN else in_rows
        if REPEATS:
            channel = channel % period
        if HAS_ZERO:
            shift = tl.load(zero + channel, mask=known, other=0)
            value -= shift[None, :] if BY_COLUMN else shift[:, None]
        factor = tl.load(scale + channel, mask=known, other=0)
        value *= factor[None, :] if BY_COLUMN else factor[:, None]
        tl.store(out + place, value.to(out.dtype.element_ty), mask=mask)


def _heuristic(problem: Problem) -> Config:
    """Tiles of 8192 values; columns that divide the width where they can."""
    width, rows = problem.shape["columns"], problem.shape["rows"]
    even = width & -width
    columns = min(even if even >= 256 else triton.next_power_of_2(width), 1024)
    columns = columns if rows > 1 else min(triton.next_power_of_2(width), 8192)
    return Config(blocks={"rows": max(8192 // columns, 1), "columns": columns}, num_warps=8)


def _candidates(problem: Problem) -> Sequence[Config]:
    best = _heuristic(problem)
    rows, columns = (best.blocks[name] for name in _BLOCKS)
    tried = [
        Config(blocks={"rows": max(int(rows * scale), 1), "columns": columns}, num_warps=warps)
        for scale in (0.25, 0.5, 1, 2)
        for warps in (4, 8)
    ]
    return [best, *tried]


KERNEL = Kernel(
    name="dequant",
    functions=(_dequantize_kernel, _as_float),
    heuristic=_heuristic,
    candidates=_candidates,
)
