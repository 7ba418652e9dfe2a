"""Cases of the columns kernel: what a tabular model reads, from codes to bfloat16.

Stands beside `iopipe.kernels.columns`.  Invariant: bytes are codes, validity bits and the
output, each once; the dictionary stays in a cache and is not counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from iopipe.bench.kernels.cases import Case
from iopipe.kernels.columns import KERNEL, Affine, EncodedColumn, decode_column, problem_of
from iopipe.kernels.columns_twin import decode_column as twin
from iopipe.kernels.packed import Packed, parse_runs
from iopipe.kernels.tuning import Kernel, Problem

_AFFINE = Affine(mean=0.25, inv_std=2.0, fill=-1.0)
_GROUPS_A_RUN = 63
"""Arrow's writer packs at most 504 values into a run, so that its header is one byte."""


def cases(device: str) -> Iterator[Case]:
    """The bar's shape first; then other widths, nulls by rank, ids, and what a page holds."""
    bar = _column(100_000_000, 12, 4096, device=device)
    yield _case("100M x 12 bits, bitmap, 4096 entries to bfloat16", bar, torch.bfloat16)
    wide = _column(100_000_000, 16, 65536, device=device)
    yield _case("100M x 16 bits, bitmap, 65536 entries to bfloat16", wide, torch.bfloat16)
    dense = replace(_column(20_000_000, 8, 256, device=device), validity=None)
    yield _case("20M x 8 bits, 256 entries to float32", dense, torch.float32)
    ids = replace(_column(100_000_000, 20, 4096, device=device), dictionary=None)
    yield _case("100M x 20 bits, bitmap to int32 ids", ids, torch.int32)
    ranked = replace(bar, compact=True)
    yield _case("100M x 12 bits by rank, bitmap, 4096 entries to bfloat16", ranked, torch.bfloat16)
    hybrid = _hybrid(bar)
    yield _case("100M x 12 bits in runs, by rank, 4096 entries to bfloat16", hybrid, torch.bfloat16)
    page = _hybrid(_column(1_000_000, 12, 4096, device=device))
    yield _case("1M x 12 bits in runs, by rank, 4096 entries to bfloat16", page, torch.bfloat16)


def case_of(kernel: Kernel, problem: Problem, device: str) -> Case | None:
    """A column with a bitmap of this size, for a problem of a run; by rank where that was."""
    shape, dtype = problem.shape, getattr(torch, problem.dtypes[0])
    column = _column(shape["rows"], shape["width"], shape["entries"], device=device)
    if not shape["entries"]:
        column = replace(column, dictionary=None)
    elif not dtype.is_floating_point:
        column = replace(column, dictionary=torch.arange(shape["entries"], device=device))
    column = replace(column, compact=bool(shape["ranked"]))
    case = _case(f"of a run, {shape['rows']} rows to {problem.dtypes[0]}", column, dtype)
    # Random codes may lie beyond few entries, which is NaN on both sides.
    return replace(case, agrees=partial(torch.allclose, rtol=0, atol=0, equal_nan=True))


def _column(num_rows: int, width: int, entries: int, *, device: str) -> EncodedColumn:
    generator = torch.Generator(device).manual_seed(num_rows + width)
    random = partial(torch.randint, 0, 256, dtype=torch.uint8, generator=generator, device=device)
    codes = random(((num_rows * width + 7) // 8,))
    # Three of four rows are valid.
    bits = random(((num_rows + 7) // 8,)) | random(((num_rows + 7) // 8,))
    dictionary = torch.randn(entries, generator=generator, device=device)
    return EncodedColumn(
        codes=Packed(data=codes, bit_width=width, num_values=num_rows),
        validity=Packed(data=bits, bit_width=1, num_values=num_rows),
        dictionary=dictionary,
    )


def _hybrid(column: EncodedColumn) -> EncodedColumn:
    """The same column by rank, with codes and validity cut into runs as in a page."""
    assert column.validity is not None
    codes, validity = _in_runs(column.codes), _in_runs(column.validity)
    return replace(column, codes=codes, validity=validity, compact=True)


def _in_runs(packed: Packed) -> Packed:
    payload = _GROUPS_A_RUN * packed.bit_width
    content = packed.data.cpu().numpy()
    whole = np.zeros((-(-len(content) // payload), payload + 1), np.uint8)
    whole[:, 0] = _GROUPS_A_RUN << 1 | 1
    padded = np.zeros(whole.shape[0] * payload, np.uint8)
    padded[: len(content)] = content
    whole[:, 1:] = padded.reshape(-1, payload)
    runs = parse_runs(whole.reshape(-1), bit_width=packed.bit_width, num_values=packed.num_values)
    device = packed.data.device
    return replace(
        packed,
        data=torch.from_numpy(whole.reshape(-1)).to(device),
        runs=torch.from_numpy(runs).to(device),
    )


def _case(name: str, column: EncodedColumn, dtype: torch.dtype) -> Case:
    affine = _AFFINE if dtype.is_floating_point else Affine()
    plain: Callable[[], torch.Tensor] = partial(twin, column, dtype=dtype, affine=affine)
    out = torch.empty(column.num_rows, dtype=dtype, device=column.codes.data.device)
    num_bytes = (column.num_rows * (column.codes.bit_width + 8 * dtype.itemsize)) // 8
    if column.validity is not None:
        num_bytes += column.num_rows // 8
    if column.compact:  # a quarter of the rows has no code
        num_bytes -= column.num_rows * column.codes.bit_width // 32
    return Case(
        kernel=KERNEL,
        name=name,
        problem=problem_of(column, dtype),
        num_bytes=num_bytes,
        run=lambda config: decode_column(
            column, dtype=dtype, affine=affine, out=out, config=config
        ),
        twin=plain,
        agrees=torch.equal,
        baselines={"torch": plain, "torch.compile": torch.compile(plain, dynamic=False)},
    )
