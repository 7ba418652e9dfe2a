"""An encoded column becomes a tensor in one pass: unpack, look up, fill, normalise, cast.

Stands between the bytes of Arrow and Parquet columns and a tabular model.  Invariant: a row
is read once and written once, and a value depends on its row alone.

Rows are cut into tiles and every program takes a stretch of consecutive tiles.  Where codes
exist for valid rows only (Parquet), a row's code is found by its rank among those: a first
launch counts the valid rows of each program's stretch, the second adds up the counts before
its own and goes on from there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
from torch.library import triton_op, wrap_triton

from iopipe.errors import PipelineError
from iopipe.kernels import column_codes, column_kernels
from iopipe.kernels.border import (
    check_budget,
    check_place,
    check_tensor,
    chosen,
    num_programs,
    to_words,
)
from iopipe.kernels.column_kernels import count_valid, decode_packed, decode_ranked
from iopipe.kernels.packed import Packed
from iopipe.kernels.tuning import Config, Kernel, Problem

_ABSENT, _PACKED, _HYBRID = 0, 1, 2
_MAX_STRETCHES = 1024
"""Counts that a program adds up in one load."""
_MAX_SHARED = 16384
"""Entries of a dictionary that a program can keep in shared memory: int64 ones take 128 KB."""
_BLOCKS = ("GROUPS", "PROGRAMS", "SHARED")
_FLOATS = (torch.bfloat16, torch.float16, torch.float32)
_IDS = (torch.int32, torch.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedColumn:
    """A column as its file holds it."""

    codes: Packed
    validity: Packed | None = None
    """A bitmap, or the definition levels of a flat optional Parquet column (width 1);
    None: no row is null.  Rows beyond the last run of levels are null."""
    compact: bool = False
    """Whether codes exist for valid rows only, as in Parquet, or for every row, as in Arrow.
    Then codes.num_values need only be large enough: the number of rows will do."""
    dictionary: torch.Tensor | None = None
    """[entries] of float32, float64, int32 or int64; None: the codes are the values."""

    @property
    def num_rows(self) -> int:
        return self.codes.num_values if self.validity is None else self.validity.num_values


@dataclass(frozen=True, slots=True, kw_only=True)
class Affine:
    """(x - mean) * inv_std in float32; a null counts as x = fill."""

    mean: float = 0.0
    inv_std: float = 1.0
    fill: float = 0.0
    """Where ids are written, the id of a null itself, a whole number."""


def _heuristic(problem: Problem) -> Config:
    shape = problem.shape
    # Large tiles pay for the dictionary that each of them puts into shared memory.
    groups = 128 if shape["ranked"] else 512 if shape["rows"] > 2**22 else 128
    return _config(groups=groups, programs=2112, shared=int(0 < shape["entries"] <= 4096))


def _config(*, groups: int, programs: int, shared: int, num_warps: int = 4) -> Config:
    blocks = {"GROUPS": groups, "PROGRAMS": programs, "SHARED": shared}
    return Config(blocks=blocks, num_warps=num_warps, num_stages=1)


def _candidates(problem: Problem) -> Sequence[Config]:
    kept = [0, 1] if 0 < problem.shape["entries"] <= _MAX_SHARED else [0]
    return [
        _config(groups=groups, programs=programs, shared=shared, num_warps=num_warps)
        for shared in kept
        for groups in (128, 256, 512, 1024)
        for programs in (1056, 2112, 4224)
        for num_warps in (4, 8)
    ]


KERNEL = Kernel(
    name="columns",
    functions=(*column_codes.FUNCTIONS, *column_kernels.FUNCTIONS),
    heuristic=_heuristic,
    candidates=_candidates,
)


def decode_column(
    column: EncodedColumn,
    *,
    dtype: torch.dtype = torch.bfloat16,
    affine: Affine | None = None,
    out: torch.Tensor | None = None,
    max_programs: int | None = None,
    config: Config | None = None,
) -> torch.Tensor:
    """The rows of a column: [num_rows] of `dtype`.

    bfloat16, float16, float32: normalised in float32 by `affine` and rounded to nearest once;
    float64 and int64 entries are rounded to float32 before.  int32, int64: the entry, or the
    code where there is no dictionary; a null is `affine.fill`.  The host does not see the
    codes, so one beyond the dictionary or beyond the last one that exists cannot raise: its
    row is NaN, or -1, and nothing is read for it.

    One launch, two where `compact`.  Raises PipelineError for what does not fit together.
    """
    affine = affine or Affine()
    check_budget(max_programs)
    _check(column, dtype, affine)
    data = column.codes.data
    if out is None:
        out = torch.empty(column.num_rows, dtype=dtype, device=data.device)
    check_tensor("out", out, like=data, dtypes=(dtype,), shape=(column.num_rows,))
    check_place("codes", data)
    if column.num_rows:
        codes, valid = column.codes, column.validity
        _decode_column(
            out, codes.data, codes.runs, [codes.bit_width, codes.first, codes.num_values],
            valid.data if valid else None, valid.runs if valid else None,
            valid.first if valid else 0, column.compact, column.dictionary,
            [affine.mean, affine.inv_std, affine.fill], to_words(config, _BLOCKS), max_programs,
        )  # fmt: skip
    return out


def problem_of(column: EncodedColumn, dtype: torch.dtype) -> Problem:
    """What decides which configuration is fast."""
    dictionary = column.dictionary
    entries = 0 if dictionary is None else dictionary.numel()
    valid = column.validity
    hybrid = column.codes.runs is not None or (valid is not None and valid.runs is not None)
    ranked = column.compact or hybrid
    return _problem(column.num_rows, entries, column.codes.bit_width, ranked, dtype)


def _problem(
    num_rows: int, entries: int, bit_width: int, ranked: bool, dtype: torch.dtype
) -> Problem:
    shape = {"rows": num_rows, "entries": entries, "width": bit_width, "ranked": int(ranked)}
    return Problem(dtypes=(str(dtype).removeprefix("torch."),), shape=shape)


def _check(column: EncodedColumn, dtype: torch.dtype, affine: Affine) -> None:
    codes, validity, dictionary = column.codes, column.validity, column.dictionary
    if dtype not in _FLOATS + _IDS:
        raise PipelineError(f"dtype is {dtype}; give one of {_FLOATS + _IDS}")
    if dtype in _IDS and not _is_id(affine, dtype):
        raise PipelineError(
            f"{affine} with ids: give a whole fill that {dtype} holds, mean 0 and inv_std 1"
        )
    if column.compact and validity is None:
        raise PipelineError("compact codes without validity; give the definition levels")
    if validity is not None:
        if validity.bit_width != 1:
            raise PipelineError(
                f"validity of {validity.bit_width} bits; only flat columns (width 1) are decoded"
            )
        if not column.compact and validity.num_values != codes.num_values:
            raise PipelineError(
                f"{validity.num_values} validity bits for {codes.num_values} codes; give as many"
            )
        check_tensor("validity", validity.data, like=codes.data)
    if dictionary is not None:
        entries = (torch.float32, torch.float64, *_IDS) if dtype in _FLOATS else _IDS
        check_tensor("dictionary", dictionary, like=codes.data, dtypes=entries)


def _is_id(affine: Affine, dtype: torch.dtype) -> bool:
    limits = torch.iinfo(dtype)
    is_held = limits.min <= affine.fill <= limits.max and affine.fill == int(affine.fill)
    return is_held and (affine.mean, affine.inv_std) == (0, 1)


@triton_op("iopipe::decode_column", mutates_args=("out",))
def _decode_column(
    out: torch.Tensor,
    codes: torch.Tensor,
    code_runs: torch.Tensor | None,
    code_sizes: Sequence[int],
    validity: torch.Tensor | None,
    valid_runs: torch.Tensor | None,
    valid_first: int,
    compact: bool,
    dictionary: torch.Tensor | None,
    affine: Sequence[float],
    config: Sequence[int],
    max_programs: int | None,
) -> None:
    width, first_code, num_codes = code_sizes
    entries = 0 if dictionary is None else dictionary.numel()
    ranked = compact or code_runs is not None or valid_runs is not None
    problem = _problem(out.numel(), entries, width, ranked, out.dtype)
    launch = chosen(KERNEL, problem, config, _BLOCKS)
    groups = launch.blocks["GROUPS"]
    num_tiles = triton.cdiv(out.numel(), 8 * groups)
    most = min(launch.blocks["PROGRAMS"], _MAX_STRETCHES if compact else 2**30)
    programs = num_programs(num_tiles, max_programs, at_most=most)
    share = triton.cdiv(num_tiles, programs)
    grid = (triton.cdiv(num_tiles, share),)
    mean, inv_std, fill = affine
    floats = out.dtype in _FLOATS
    shared = launch.blocks["SHARED"] and 0 < entries <= _MAX_SHARED
    # What is absent is never touched; any tensor stands in for it.
    valid = (codes if validity is None else validity, valid_first)
    entry = (codes if dictionary is None else dictionary, entries)
    rows = (out, out.numel(), share, mean, inv_std, fill, 0 if floats else int(fill))
    how = {
        "SHARED": triton.next_power_of_2(entries) if shared else 0,
        "WIDTH": width,
        "LOOKUP": dictionary is not None,
        "FLOAT": floats,
        "num_warps": launch.num_warps,
        "num_stages": launch.num_stages,
    }
    if not ranked:
        wrap_triton(decode_packed)[grid](
            codes, first_code * width, *valid, *entry, *rows,
            GROUPS=groups, VALIDITY=validity is not None, **how,
        )  # fmt: skip
        return
    valid_table = _table_of(valid_runs, codes)
    kind = _ABSENT if validity is None else _PACKED if valid_runs is None else _HYBRID
    counts = codes
    if compact:
        counts = torch.empty(grid[0], dtype=torch.int64, device=out.device)
        wrap_triton(count_valid)[grid](
            *valid, *valid_table, counts, out.numel(), share, TILE=8 * groups, VALIDITY=kind,
            num_warps=launch.num_warps, num_stages=launch.num_stages,
        )  # fmt: skip
    wrap_triton(decode_ranked)[grid](
        codes, first_code * width, num_codes, *_table_of(code_runs, codes), *valid,
        *valid_table, counts, *entry, *rows,
        TILE=8 * groups, HYBRID=code_runs is not None, VALIDITY=kind, COMPACT=compact,
        STRETCHES=_MAX_STRETCHES if compact else 1, **how,
    )  # fmt: skip


def _table_of(runs: torch.Tensor | None, instead: torch.Tensor) -> tuple[torch.Tensor, int]:
    return (instead, 0) if runs is None else (runs, runs.shape[1] - 1)


@_decode_column.register_fake  # type: ignore[untyped-decorator]
def _(*args: object, **kwargs: object) -> None:
    return None
