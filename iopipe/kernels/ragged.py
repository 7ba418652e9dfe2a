"""Ragged columns on the device: to padded ones and back, rows by index, rows side by side.

Stands after the transfer in the flow.  Invariant: elements are bytes here; a row of any
dtype and width is moved in the widest words that divide it, and no value is looked at.

A ragged column is torch's jagged layout: `values` [tokens, *width] and `offsets` [rows + 1],
int32 or int64, which do not decrease; row i is `values[offsets[i] : offsets[i + 1]]`.  The
host never learns an offset: where the size of a result depends on them, the caller gives it.
Offsets that point outside `values` read as `fill` or 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from iopipe.errors import PipelineError
from iopipe.kernels.border import check_budget, check_place, check_tensor, to_words
from iopipe.kernels.ragged_copy import COPY_BLOCKS, gather, join_part, join_starts, unpad_rows
from iopipe.kernels.ragged_offsets import gathered_offsets
from iopipe.kernels.ragged_pad import PAD_BLOCKS, pad_rows
from iopipe.kernels.ragged_runs import RUN_BLOCKS
from iopipe.kernels.tuning import Config

OFFSETS = (torch.int32, torch.int64)


def pad(
    values: torch.Tensor,
    offsets: torch.Tensor,
    *,
    length: int,
    fill: float = 0,
    out: torch.Tensor | None = None,
    max_programs: int | None = None,
    config: Config | None = None,
) -> torch.Tensor:
    """[rows, length, *width]: each row from column 0 on, `fill` behind it.

    A row longer than `length` is cut.  `fill` is a number that the dtype holds; dtypes other
    than bool, integers, float16, bfloat16, float32 and float64 take 0 only.
    """
    num_rows = _check_ragged(values, offsets)
    check_budget(max_programs)
    if length < 0:
        raise PipelineError(f"length is {length}: give 0 or more")
    shape = (num_rows, length, *values.shape[1:])
    out = _room(out, shape, values)
    check_place("values", values)
    pad_rows(values, offsets, out, fill, max_programs, _words(config, PAD_BLOCKS))
    return out


def unpad(
    padded: torch.Tensor,
    offsets: torch.Tensor,
    *,
    total: int,
    out: torch.Tensor | None = None,
    max_programs: int | None = None,
    config: Config | None = None,
) -> torch.Tensor:
    """[total, *width]: the rows of `padded` [rows, length, *width], cut as `offsets` say.

    `total` is `offsets[-1]`, or more: what is behind it is 0, and so is what a row has beyond
    `length`.
    """
    if padded.dim() < 2:
        raise PipelineError(f"padded has shape {tuple(padded.shape)}: give [rows, length, *width]")
    check_tensor("padded", padded, like=padded)
    check_tensor("offsets", offsets, like=padded, dtypes=OFFSETS, shape=(padded.shape[0] + 1,))
    out = _capacity(out, total, padded, padded.shape[2:])
    check_budget(max_programs)
    check_place("padded", padded)
    unpad_rows(padded, offsets, out, max_programs, _words(config, COPY_BLOCKS))
    return out


def gather_rows(
    values: torch.Tensor,
    offsets: torch.Tensor,
    rows: torch.Tensor,
    *,
    total: int,
    out: tuple[torch.Tensor, torch.Tensor] | None = None,
    max_programs: int | None = None,
    config: Config | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The rows `rows` (int64 [n]) as a ragged column: values [total, *width], offsets [n + 1].

    `total` is the room for tokens: what is behind the last row is 0, and what does not fit
    is cut off, which shows as `offsets[-1] > total`.  Offsets have the dtype of `offsets`
    and stop at its greatest value.  A row that is not there has no tokens.
    """
    _check_ragged(values, offsets)
    check_budget(max_programs)
    shape = (rows.numel(),)
    check_tensor("rows", rows, like=values, dtypes=(torch.int64,), shape=shape)
    taken = _capacity(out[0] if out else None, total, values, values.shape[1:])
    if offsets.dtype == torch.int32 and total >= 2**31:
        raise PipelineError(f"total is {total}: give offsets of int64 for that many")
    ends = _room(out[1] if out else None, (rows.numel() + 1,), offsets)
    check_place("values", values)
    gathered_offsets(offsets, rows, ends, max_programs)
    gather(values, offsets, rows, taken, ends, max_programs, _words(config, COPY_BLOCKS))
    return taken, ends


def join_rows(
    parts: Sequence[tuple[torch.Tensor, torch.Tensor]],
    *,
    out: tuple[torch.Tensor, torch.Tensor] | None = None,
    max_programs: int | None = None,
    config: Config | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Ragged columns of equally many rows side by side: row i is all parts' rows i in a row.

    Values [sum of the parts' tokens, *width]: values that no offset of their part covers
    leave as much room, unwritten, at the end.  Offsets [rows + 1] have the first part's dtype.
    One launch a part and two for the offsets, which need room for rows * parts of int64.
    """
    if not parts:
        raise PipelineError("no parts to join: give one or more")
    values, offsets = parts[0]
    for part_values, part_offsets in parts:
        _check_ragged(part_values, part_offsets)
        shape = (part_values.shape[0], *values.shape[1:])
        check_tensor("a part", part_values, like=values, dtypes=(values.dtype,), shape=shape)
        shape = tuple(offsets.shape)
        check_tensor("a part's offsets", part_offsets, like=values, dtypes=OFFSETS, shape=shape)
    check_budget(max_programs)
    total = sum(part.shape[0] for part, _ in parts)
    if offsets.dtype == torch.int32 and total >= 2**31:
        raise PipelineError(f"{total} tokens in all: give the first part offsets of int64")
    joined = _room(out[0] if out else None, (total, *values.shape[1:]), values)
    ends = _room(out[1] if out else None, tuple(offsets.shape), offsets)
    check_place("values", values)
    stacked = torch.stack([part_offsets.to(torch.int64) for _, part_offsets in parts])
    starts = torch.empty_like(stacked[:, 1:], memory_format=torch.contiguous_format)
    join_starts(stacked, starts, ends, max_programs)
    words = _words(config, COPY_BLOCKS)
    for (part, part_offsets), begins in zip(parts, starts.unbind(), strict=True):
        join_part(part, part_offsets, begins, joined, max_programs, words)
    return joined, ends


def _words(config: Config | None, names: Sequence[str]) -> list[int]:
    """Of a configuration for a kernel with the blocks `names`, or for the one of long rows."""
    is_run = config is not None and set(config.blocks) == set(RUN_BLOCKS)
    return to_words(config, RUN_BLOCKS if is_run else names)


def _check_ragged(values: torch.Tensor, offsets: torch.Tensor) -> int:
    """The number of rows."""
    if values.dim() < 1 or offsets.numel() < 1:
        raise PipelineError(
            f"values have shape {tuple(values.shape)} and offsets {tuple(offsets.shape)}: give "
            "[tokens, *width] and [rows + 1]"
        )
    check_tensor("values", values, like=values)
    shape = (offsets.numel(),)
    check_tensor("offsets", offsets, like=values, dtypes=OFFSETS, shape=shape)
    return offsets.numel() - 1


def _room(out: torch.Tensor | None, shape: Sequence[int], like: torch.Tensor) -> torch.Tensor:
    if out is None:
        return torch.empty(shape, dtype=like.dtype, device=like.device)
    check_tensor("out", out, like=like, dtypes=(like.dtype,), shape=shape)
    return out


def _capacity(
    out: torch.Tensor | None, total: int, like: torch.Tensor, width: Sequence[int]
) -> torch.Tensor:
    if total < 0:
        raise PipelineError(f"total is {total}: give 0 or more")
    return _room(out, (total, *width), like)
