"""The token kernel in plain torch, a step at a time: what tests compare with.

Stands beside tokens.py.  Invariant: says what is meant, not how to be fast; waits for nothing
either, so that it is also what a compiler gets to work on.
"""

from __future__ import annotations

import torch
from torch.nn.functional import pad

from iopipe.kernels.token_batch import TokenBatch, TokenOptions


def windows_twin(pool: torch.Tensor, starts: torch.Tensor, length: int) -> torch.Tensor:
    """int64 [rows, length + 1]: the windows of a pool that contains them wholly."""
    index = starts[:, None] + torch.arange(length + 1, device=pool.device)
    return _widened(_signed(pool)[index])


def widened_twin(tokens: torch.Tensor) -> torch.Tensor:
    """uint16 or uint32 tokens as int64."""
    return _widened(_signed(tokens))


def _signed(tokens: torch.Tensor) -> torch.Tensor:
    """The same bits; torch has few operations on unsigned numbers."""
    signed: torch.Tensor = tokens.view(torch.int16 if tokens.dtype == torch.uint16 else torch.int32)
    return signed


def _widened(signed: torch.Tensor) -> torch.Tensor:
    mask: int = 2 ** (8 * signed.element_size()) - 1
    return signed.to(torch.int64) & mask


def pack_tokens_twin(tokens: torch.Tensor, options: TokenOptions) -> TokenBatch:
    """`tokens` int64 [rows, length + 1] to a batch, with an empty state."""
    here, following = tokens[:, :-1], tokens[:, 1:]
    num_rows, length = here.shape
    end_token = -1 if options.end_token is None else options.end_token
    ends = here == end_token
    starts = pad(ends[:, :-1], (1, 0), value=True)
    column = torch.arange(length, device=tokens.device)
    first = torch.where(starts, column, 0).cummax(dim=1).values
    document = starts.flatten().cumsum(0) - 1
    place = torch.arange(num_rows * length, device=tokens.device)
    # What is no start, or does not fit, goes to one place more, which is cut off.
    slot = torch.where(starts.flatten(), document, options.max_documents)
    ends_at = torch.full((options.max_documents + 1,), num_rows * length, device=tokens.device)
    listed = ends_at.scatter(0, slot.clamp(max=options.max_documents), place)
    listed[-1] = num_rows * length
    return TokenBatch(
        inputs=here.to(options.dtype),
        labels=torch.where(ends, options.ignore_index, following).to(options.dtype),
        position_ids=(column - first).to(torch.int32),
        document_ids=document.view(num_rows, length).to(torch.int32),
        cu_seqlens=listed.to(torch.int32),
        num_documents=starts.sum().view(1).to(torch.int32),
        state=tokens.new_empty(0),
    )
