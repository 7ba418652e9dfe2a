"""The ragged kernels in plain torch: what tests compare with.

Stands beside ragged.py.  Invariant: sizes come from the host here too, so that nothing waits
and a compiler gets the same work.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch


def pad_twin(
    values: torch.Tensor, offsets: torch.Tensor, *, length: int, fill: float = 0
) -> torch.Tensor:
    """Each row from column 0 on, `fill` behind it."""
    column = torch.arange(length, device=values.device)
    token = offsets[:-1, None] + column
    inside = token < offsets[1:, None]
    taken = values[token.clamp(max=values.shape[0] - 1)]
    return torch.where(_wide(inside, taken), taken, fill)


def unpad_twin(padded: torch.Tensor, offsets: torch.Tensor, *, total: int) -> torch.Tensor:
    """The rows without their padding; 0 behind the last."""
    token = torch.arange(total, device=padded.device)
    row = _row_of(offsets, token)
    column = token - offsets[row]
    inside = (token < offsets[-1]) & (column < padded.shape[1])
    taken = padded[row, column.clamp(max=padded.shape[1] - 1)]
    return torch.where(_wide(inside, taken), taken, 0)


def gather_rows_twin(
    values: torch.Tensor, offsets: torch.Tensor, rows: torch.Tensor, *, total: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The rows taken, and their offsets."""
    ends = torch.zeros(rows.numel() + 1, dtype=offsets.dtype, device=offsets.device)
    ends[1:] = torch.cumsum(offsets[rows + 1] - offsets[rows], 0)
    token = torch.arange(total, device=values.device)
    row = _row_of(ends, token)
    inside = token < ends[-1]
    source = offsets[rows[row]] + token - ends[row]
    taken = values[torch.where(inside, source, 0)]
    return torch.where(_wide(inside, taken), taken, 0), ends


def join_rows_twin(
    parts: Sequence[tuple[torch.Tensor, torch.Tensor]],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Row i of all parts in a row; every part's offsets cover its values."""
    first = parts[0][1]
    num_rows = first.numel() - 1
    ends = sum((offsets - offsets[0] for _, offsets in parts), torch.zeros_like(first))
    start = ends[:-1].clone()
    total = sum(values.shape[0] for values, _ in parts)
    joined = parts[0][0].new_empty(total, *parts[0][0].shape[1:])
    for values, offsets in parts:
        token = torch.arange(values.shape[0], device=values.device)
        row = _row_of(offsets, token)
        joined[start[row] + token - offsets[row]] = values
        start = start + offsets[1:] - offsets[:-1]
    return joined, ends.view(num_rows + 1)


def _row_of(offsets: torch.Tensor, token: torch.Tensor) -> torch.Tensor:
    row = torch.searchsorted(offsets, token.to(offsets.dtype), right=True) - 1
    return row.clamp(0, max(offsets.numel() - 2, 0))


def _wide(mask: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return mask.reshape(*mask.shape, *(1 for _ in range(like.dim() - mask.dim())))
