"""Long rows of a ragged layout to another: whole words at once, wherever rows begin.

Stands behind `ragged.pad`, `unpad` and `gather_rows`, beside the kernels that look at each
token.  Invariant: driven by the result, every byte of which is written once; rows are byte
ranges here, and no value is looked at.

A program takes a tile of the result, finds its first and last row and walks the rows between
them.  Eight bytes of the result come from two words of the source, shifted together: rows may
begin anywhere.  A row costs a turn of the walk, so this is for rows that are long on average;
many empty ones in one place make one program slow, not wrong.

Words that are read lie on multiples of 8 and hold at least one byte of the source, so they
never reach into another page; what else they hold is cut off.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch.library import wrap_triton

from iopipe.errors import PipelineError
from iopipe.kernels.border import chosen, num_programs
from iopipe.kernels.ragged_search import PAD, UNPAD, ends_of_tile, far_begin
from iopipe.kernels.ragged_words import flat
from iopipe.kernels.tuning import Config, Kernel, Problem

RUN_BLOCKS = ("run_bytes",)
_WORD_BYTES = 8
_LONG_BYTES = 2048
"""Rows of so many bytes on average are copied in this form, unless their words are wide: those
need no shifting."""


def is_run(words: Sequence[int], target: torch.Tensor, num_rows: int, word_bytes: int) -> bool:
    """Whether `num_rows` rows go into `target` in this form: where a configuration says so, or
    rows are long and their words narrow.  What is written must lie on multiples of 8 bytes."""
    is_aligned = target.storage_offset() * target.element_size() % _WORD_BYTES == 0
    if words:
        is_wanted = len(words) == len(RUN_BLOCKS) + 2
        if is_wanted and not is_aligned:
            raise PipelineError("the result does not lie on a multiple of 8 bytes: copy by tokens")
        return is_wanted
    return is_aligned and word_bytes < _WORD_BYTES and target.nbytes >= _LONG_BYTES * num_rows


def copy_runs(
    kind: int,
    source: torch.Tensor,
    target: torch.Tensor,
    tables: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    row_bytes: int,
    num_rows: int,
    limit: int,
    max_programs: int | None,
    words: Sequence[int],
    fill: tuple[int, int] = (0, 0),
) -> None:
    """`tables` and `limit` are what `far_begin` takes, the offsets of the result's rows first;
    `row_bytes` are those of a token, `fill` is a word as two halves."""
    near, far, rows = tables
    problem = Problem(dtypes=("uint8",), shape={"bytes": target.nbytes, "rows": num_rows})
    config = chosen(RUN_KERNEL, problem, words, RUN_BLOCKS)
    lanes = config.blocks["run_bytes"] // _WORD_BYTES
    num_tiles = triton.cdiv(target.nbytes, lanes * _WORD_BYTES)
    wrap_triton(_run_kernel)[(num_programs(num_tiles, max_programs, at_most=2**31 - 1),)](
        flat(source, torch.uint8),
        flat(target, torch.uint8),
        near,
        far,
        rows,
        *fill,
        target.nbytes,
        source.nbytes // row_bytes,
        num_rows,
        row_bytes,
        limit,
        num_tiles,
        KIND=kind,
        LANES=lanes,
        num_warps=config.num_warps,
        num_stages=config.num_stages,
    )


@triton.jit  # type: ignore[untyped-decorator]
def _near_row(near, row, limit, KIND: tl.constexpr):  # type: ignore[no-untyped-def]
    """(first token, token behind the last) of a row of the result."""
    if KIND == PAD:
        begin = row.to(tl.int64) * limit
        end = begin + limit
    else:
        begin = tl.load(near + row).to(tl.int64)
        end = tl.load(near + row + 1).to(tl.int64)
    return begin, end


@triton.jit  # type: ignore[untyped-decorator]
def _far_row(far, rows, row, limit, num_far_tokens, KIND: tl.constexpr):  # type: ignore[no-untyped-def]
    """(token where the row begins in the source, its least and greatest token, counted from
    there, that exist)"""
    if KIND == PAD:
        begin = tl.load(far + row).to(tl.int64)
        end = tl.minimum(tl.load(far + row + 1).to(tl.int64), num_far_tokens)
        low = begin * 0
        high = tl.where(begin >= 0, end - begin, 0)
    else:
        begin, exists = far_begin(far, rows, row, limit, KIND)
        low = tl.maximum(-begin, 0)
        high = tl.where(exists, num_far_tokens - begin, 0)
        if KIND == UNPAD:
            high = tl.minimum(high, limit)
    return begin, low, high


@triton.jit
def _ones(like):  # type: ignore[no-untyped-def]
    """64 bits each; the interpreter of Triton 3.6 cannot invert what has no sign."""
    return (like.to(tl.int64) * 0 - 1).to(tl.uint64)


@triton.jit
def _eight_bytes(address, low, high):  # type: ignore[no-untyped-def]
    """(bytes `low` to `high` of the eight at each address, which bits they are); what is
    outside 0 to 8 is cut."""
    low = tl.maximum(low, 0)
    high = tl.minimum(high, 8)
    wanted = low < high
    lead = address & 7
    words = (address - lead).to(tl.pointer_type(tl.uint64))
    first = tl.load(words, mask=wanted & (low + lead < 8), other=0)
    second = tl.load(words + 1, mask=wanted & (high + lead > 8), other=0)
    bits = (lead * 8).to(tl.uint64)
    value = (first >> bits) | ((second << 1) << (63 - bits))
    full = _ones(first)
    keep = (full << (tl.where(wanted, low, 0) * 8).to(tl.uint64)) & (
        full >> (tl.where(wanted, 8 - high, 0) * 8).to(tl.uint64)
    )
    keep = tl.where(wanted, keep, 0)
    return value & keep, keep


@triton.jit  # type: ignore[untyped-decorator]
def _run_kernel(  # type: ignore[no-untyped-def]
    source,
    target,
    near,
    far,
    rows,
    fill_low,
    fill_high,
    num_bytes,
    num_far_tokens,
    num_rows,
    row_bytes,
    limit,
    num_tiles,
    KIND: tl.constexpr,
    LANES: tl.constexpr,
):
    upper = (tl.zeros((), tl.int64) + fill_high) << 32
    fill = (upper | ((tl.zeros((), tl.int64) + fill_low) & 0xFFFFFFFF)).to(tl.uint64)
    words = target.to(tl.pointer_type(tl.uint64))
    for tile in range(tl.program_id(0), num_tiles, tl.num_programs(0)):
        start = (tl.zeros((), tl.int64) + tile) * (LANES * 8)
        place = start + tl.arange(0, LANES) * 8
        last_byte = tl.minimum(start + LANES * 8, num_bytes) - 1
        first_token, last_token = start // row_bytes, last_byte // row_bytes
        if KIND == PAD:
            first, last = first_token // limit, last_token // limit
        else:
            ends = tl.where(tl.arange(0, 2) == 0, first_token, last_token)
            first, last = ends_of_tile(near, ends, num_rows)
        value = tl.zeros((LANES,), tl.uint64)
        known = tl.zeros((LANES,), tl.uint64)
        row = first
        while row <= last:
            begin, end = _near_row(near, row, limit, KIND)
            far_token, low, high = _far_row(far, rows, row, limit, num_far_tokens, KIND)
            # Cut to the tile before anything is multiplied: offsets may be any number.
            low = tl.maximum(begin + low, first_token)
            high = tl.minimum(tl.minimum(begin + high, end), last_token + 1)
            if low < high:
                shift = (far_token - begin) * row_bytes
                found, bits = _eight_bytes(
                    source.to(tl.int64) + shift + place,
                    low * row_bytes - place,
                    tl.minimum(high * row_bytes, num_bytes) - place,
                )
                value |= found
                known |= bits
            row += 1
        if KIND == PAD:
            value |= fill & (known ^ _ones(known))
        tl.store(words + place // 8, value, mask=place + 8 <= num_bytes)
        if last_byte + 1 == num_bytes:
            for byte in tl.static_range(7):  # of the word that the result ends in
                inside = (place + 8 > num_bytes) & (place + byte < num_bytes)
                tl.store(target + place + byte, (value >> (8 * byte)).to(tl.uint8), mask=inside)


def _heuristic(problem: Problem) -> Config:
    """Tiles of 8 KiB, 8 words a thread: 120 registers on Hopper, so four programs a processor."""
    return Config(blocks={"run_bytes": 8192}, num_warps=4)


def _candidates(problem: Problem) -> Sequence[Config]:
    return [
        Config(blocks={"run_bytes": run_bytes}, num_warps=num_warps)
        for run_bytes in (8192, 4096, 16384, 32768)
        for num_warps in (4, 8)
    ]


RUN_KERNEL = Kernel(
    name="ragged_runs",
    functions=(_run_kernel, _near_row, _far_row, _eight_bytes, ends_of_tile, far_begin),
    heuristic=_heuristic,
    candidates=_candidates,
)
