"""Cases of the token kernel: a shuffled epoch from a pool on the device, and batches.

Stands between the token kernel and whoever times it.  Invariant: the compiled twin gets
everything the kernel computes itself, the order of the windows included, as an argument.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields

import numpy as np
import torch

from iopipe.bench.kernels.cases import Case
from iopipe.kernels.token_batch import (
    TokenBatch,
    TokenOptions,
    TokenRows,
    Windows,
    WindowsAt,
    WindowsInOrder,
)
from iopipe.kernels.tokens import KERNEL, pack_tokens
from iopipe.kernels.tokens_twin import pack_tokens_twin, widened_twin, windows_twin
from iopipe.kernels.tuning import Config, Kernel, Problem
from iopipe.kernels.window_order import window_order
from iopipe.order import permute, round_keys

Results = tuple[torch.Tensor, ...]
_RESULTS = [field.name for field in fields(TokenBatch) if field.name != "state"]
_DOCUMENT_TOKENS = 1024
_END_TOKEN = 0
_KEY = (0, 0)


def cases(device: str) -> Iterator[Case]:
    """The pool of the bar first; then rows that came by a transfer, short and long."""
    yield _in_order(512, 8192, torch.uint16, device)
    yield _in_rows(512, 8192, torch.uint16, device)
    yield _in_rows(64, 8192, torch.uint16, device)
    yield _in_rows(1024, 2048, torch.uint32, device)
    yield _at_places(32, 131072, torch.uint32, device)


def case_of(kernel: Kernel, problem: Problem, device: str) -> Case | None:
    """A batch of rows of this size, for a problem of a run; None where labels are not int64."""
    dtype, labels = problem.dtypes
    if labels != "int64":
        return None
    return _in_rows(problem.shape["rows"], problem.shape["length"], getattr(torch, dtype), device)


def _tokens(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> torch.Tensor:
    """Random; one in 1024 ends a document."""
    generator = torch.Generator(device).manual_seed(0)
    tokens = torch.randint(1, 50000, shape, generator=generator, device=device)
    ends = torch.rand(shape, generator=generator, device=device) < 1 / _DOCUMENT_TOKENS
    return tokens.masked_fill_(ends, _END_TOKEN).to(dtype)


def _in_order(rows: int, length: int, dtype: torch.dtype, device: str) -> Case:
    num_windows = 64 * rows
    pool = _tokens((num_windows * length + 1,), dtype, device)
    order = window_order(num_windows, round_keys(_KEY).tolist(), device=device)
    position = torch.zeros(1, dtype=torch.int64, device=device)
    windows = WindowsInOrder(
        pool=pool, order=order, position=position, num_rows=rows, length=length
    )
    ids = permute(np.arange(rows), num_windows, _KEY)
    starts = torch.from_numpy(ids).to(device) * length
    name = f"pool in order, {rows} x {length}, {_short(dtype)}"
    return _case(name, windows, rows, length, lambda: windows_twin(pool, starts, length), dtype)


def _at_places(rows: int, length: int, dtype: torch.dtype, device: str) -> Case:
    pool = _tokens((4 * rows * length,), dtype, device)
    generator = torch.Generator(device).manual_seed(1)
    last = len(pool) - length
    starts = torch.randint(0, last, (rows,), generator=generator, device=device)
    windows = WindowsAt(pool=pool, starts=starts, length=length)
    name = f"pool at places, {rows} x {length}, {_short(dtype)}"
    return _case(name, windows, rows, length, lambda: windows_twin(pool, starts, length), dtype)


def _in_rows(rows: int, length: int, dtype: torch.dtype, device: str) -> Case:
    tokens = _tokens((rows, length + 1), dtype, device)
    name = f"rows, {rows} x {length}, {_short(dtype)}"
    return _case(name, TokenRows(tokens), rows, length, lambda: widened_twin(tokens), dtype)


def _case(
    name: str,
    windows: Windows,
    rows: int,
    length: int,
    widened: Callable[[], torch.Tensor],
    dtype: torch.dtype,
) -> Case:
    most = max(rows, rows * length // 128)
    options = TokenOptions(end_token=_END_TOKEN, max_documents=most)
    tokens = windows.tokens if isinstance(windows, TokenRows) else windows.pool
    out = TokenBatch.empty(rows, length, options, device=tokens.device)

    def run(config: Config | None) -> Results:
        return _results(pack_tokens(windows, options, out=out, config=config))

    def twin() -> Results:
        return _results(pack_tokens_twin(widened(), options))

    written = sum(result.nbytes for result in _results(out))
    return Case(
        kernel=KERNEL,
        name=name,
        problem=Problem(dtypes=(_short(dtype), "int64"), shape={"rows": rows, "length": length}),
        num_bytes=rows * (length + 1) * dtype.itemsize + written,
        run=run,
        twin=twin,
        agrees=_equal,
        baselines={"torch.compile": torch.compile(twin, dynamic=False)},
    )


def _results(batch: TokenBatch) -> Results:
    return tuple(getattr(batch, name) for name in _RESULTS)


def _equal(ours: Results, theirs: Results) -> bool:
    return all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
