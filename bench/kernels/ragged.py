"""Cases of the ragged kernels: embeddings, token ids and encoded bytes of unequal length.

Stands between the ragged kernels and whoever times them.  Invariant: sizes are known to the
host on both sides, so neither the kernels nor the compiled twins wait for the device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch

from iopipe.bench.kernels.cases import Case
from iopipe.kernels.ragged import gather_rows, join_rows, pad, unpad
from iopipe.kernels.ragged_copy import COPY_KERNEL
from iopipe.kernels.ragged_pad import PAD_KERNEL
from iopipe.kernels.ragged_runs import RUN_KERNEL
from iopipe.kernels.ragged_twin import (
    gather_rows_twin,
    join_rows_twin,
    pad_twin,
    unpad_twin,
)
from iopipe.kernels.tuning import Config, Kernel, Problem, resolve

Results = tuple[torch.Tensor, ...]


@dataclass(frozen=True, slots=True)
class _Column:
    name: str
    values: torch.Tensor
    offsets: torch.Tensor
    length: int
    """To pad to."""

    @property
    def row_bytes(self) -> int:
        return self.values[:1].nbytes

    def padded_bytes(self) -> int:
        return (len(self.offsets) - 1) * self.length * self.row_bytes


def cases(device: str) -> Iterator[Case]:
    """To padded (the bar's first), back, rows by index and side by side, of four columns."""
    columns = [
        _column("embeddings", 4096, 100, 512, (128,), torch.bfloat16, device),
        _column("token ids", 65536, 128, 512, (), torch.int32, device),
        _column("image patches", 512, 576, 1024, (768,), torch.bfloat16, device),
        _column("encoded images", 1024, 100_000, 262_144, (), torch.uint8, device),
    ]
    for make in (_pad, _unpad, _gather, _join):
        for column in columns:
            yield make(column)
    for make in (_pad, _unpad, _gather):
        for column in columns:
            yield _in_runs(make(column), len(column.offsets) - 1)


def case_of(kernel: Kernel, problem: Problem, device: str) -> Case | None:
    """For a problem of a run: rows half full to pad, rows of equal length to copy."""
    shape, dtype = problem.shape, getattr(torch, problem.dtypes[0])
    if kernel.name == PAD_KERNEL.name:
        rows, words = shape["rows"], shape["words"]
        return _pad(_column("of a run", rows, max(1, words // 2), words, (), dtype, device))
    if kernel.name == RUN_KERNEL.name:
        rows, total = shape["rows"], shape["bytes"]
        column = _column("of a run", rows, max(1, total // rows), total, (), torch.uint8, device)
        return _in_runs(_gather(column), rows)
    rows, tokens = shape["rows"], shape["tokens"]
    offsets = torch.arange(rows + 1, device=device) * tokens // rows
    values = torch.randint(-99, 99, (tokens, shape["words"]), device=device, dtype=torch.int8)
    return _unpad(_Column(f"of a run, {rows} rows", values.to(dtype), offsets, -(-tokens // rows)))


def _in_runs(case: Case, num_rows: int) -> Case:
    """The same case in the form for long rows, whatever form it takes by itself; that one is
    beside it."""
    nbytes = sum(result.nbytes for result in case.run(None)[:1])
    problem = Problem(dtypes=("uint8",), shape={"bytes": nbytes, "rows": num_rows})
    forced = RUN_KERNEL.heuristic(problem)
    by_words = case.kernel.heuristic(case.problem)
    return replace(
        case,
        kernel=RUN_KERNEL,
        name=f"{case.name}, in runs",
        problem=problem,
        run=lambda config: case.run(config or forced),
        baselines={"by words": lambda: case.run(by_words)},
    )


def _column(
    name: str,
    rows: int,
    mean: int,
    longest: int,
    width: tuple[int, ...],
    dtype: torch.dtype,
    device: str,
) -> _Column:
    """Exponential lengths of about this mean, none above `longest`."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.empty(rows).exponential_(1 / mean, generator=generator)
    lengths = drawn.to(torch.int64).clamp(1, longest)
    offsets = torch.zeros(rows + 1, dtype=torch.int64)
    offsets[1:] = lengths.cumsum(0)
    total = int(offsets[-1])
    values = torch.randint(-99, 99, (total, *width), device=device, dtype=torch.int8).to(dtype)
    return _Column(f"{name}, {rows} rows", values, offsets.to(device), longest)


def _pad(column: _Column) -> Case:
    values, offsets, length = column.values, column.offsets, column.length
    out = values.new_empty(len(offsets) - 1, length, *values.shape[1:])

    def run(config: Config | None) -> Results:
        return (pad(values, offsets, length=length, out=out, config=config),)

    shape = {"rows": len(offsets) - 1, "words": length * column.row_bytes // _word(values).itemsize}
    return _case(
        PAD_KERNEL,
        f"pad, {column.name}",
        shape,
        values,
        values.nbytes + offsets.nbytes + out.nbytes,
        run,
        lambda: (pad_twin(values, offsets, length=length),),
    )


def _unpad(column: _Column) -> Case:
    padded = pad(column.values, column.offsets, length=column.length)
    offsets, total = column.offsets, len(column.values)
    out = torch.empty_like(column.values)

    def run(config: Config | None) -> Results:
        return (unpad(padded, offsets, total=total, out=out, config=config),)

    return _case(
        COPY_KERNEL,
        f"unpad, {column.name}",
        _copy_shape(column, total),
        out,
        2 * out.nbytes + offsets.nbytes,
        run,
        lambda: (unpad_twin(padded, offsets, total=total),),
    )


def _gather(column: _Column) -> Case:
    """All rows in another order."""
    values, offsets, total = column.values, column.offsets, len(column.values)
    rows = torch.randperm(len(offsets) - 1, generator=torch.Generator().manual_seed(1))
    rows = rows.to(values.device)
    out = torch.empty_like(values), torch.empty_like(offsets)

    def run(config: Config | None) -> Results:
        return gather_rows(values, offsets, rows, total=total, out=out, config=config)

    return _case(
        COPY_KERNEL,
        f"gather, {column.name}",
        _copy_shape(column, total),
        values,
        2 * values.nbytes + 2 * offsets.nbytes + rows.nbytes,
        run,
        lambda: gather_rows_twin(values, offsets, rows, total=total),
    )


def _join(column: _Column) -> Case:
    """With itself: the same bytes are read twice, far apart, and count twice."""
    parts = [(column.values, column.offsets), (column.values.clone(), column.offsets.clone())]
    total = 2 * len(column.values)
    values = torch.empty((total, *column.values.shape[1:]), dtype=column.values.dtype)
    out = values.to(column.values.device), torch.empty_like(column.offsets)

    def run(config: Config | None) -> Results:
        return join_rows(parts, out=out, config=config)

    return _case(
        COPY_KERNEL,
        f"join, {column.name}",
        _copy_shape(column, len(column.values)),
        column.values,
        4 * column.values.nbytes + 3 * column.offsets.nbytes,
        run,
        lambda: join_rows_twin(parts),
    )


def _case(
    kernel: Kernel,
    name: str,
    shape: dict[str, int],
    values: torch.Tensor,
    num_bytes: int,
    run: Callable[[Config | None], Results],
    twin: Callable[[], Results],
) -> Case:
    word = str(_word(values)).removeprefix("torch.")
    problem = Problem(dtypes=(word,), shape=shape)
    return Case(
        kernel=kernel,
        name=name,
        problem=problem,
        num_bytes=num_bytes,
        # Named, since without a configuration long rows take the form of another kernel.
        run=lambda config: run(config or resolve(kernel, problem)),
        twin=twin,
        agrees=_equal,
        baselines={"torch.compile": torch.compile(twin, dynamic=False)},
    )


def _copy_shape(column: _Column, total: int) -> dict[str, int]:
    words = column.row_bytes // _word(column.values).itemsize
    return {"tokens": total, "rows": len(column.offsets) - 1, "words": words}


def _word(values: torch.Tensor) -> torch.dtype:
    words = (torch.int64, torch.int32, torch.int16, torch.uint8)
    return next(word for word in words if values[:1].nbytes % word.itemsize == 0)


def _equal(ours: Results, theirs: Results) -> bool:
    return all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))
