"""What goes into the token kernel and what comes out.

Stands between loaders and the token kernel.  Invariant: every size is known to the host, so
nobody waits for the device to learn a shape.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import torch

from iopipe.errors import PipelineError

STATE_WORDS = 2049
"""One for each program of the largest grid, and the count of those that are done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenOptions:
    """What tokens mean."""

    end_token: int | None
    """The token that ends a document and belongs to it; None: each window is one document."""
    max_documents: int
    """Room in `cu_seqlens`: documents and parts of documents of one batch."""
    ignore_index: int = -100
    """The label of what must not be learned; -100 is what torch's cross-entropy leaves out."""
    dtype: torch.dtype = torch.int64
    """Of inputs and labels: int64, or int32 where the model takes it."""

    def __post_init__(self) -> None:
        if self.max_documents < 1:
            raise PipelineError(f"max_documents is {self.max_documents}: give 1 or more")
        if self.dtype not in (torch.int64, torch.int32):
            raise PipelineError(f"dtype is {self.dtype}: give torch.int64 or torch.int32")
        if self.end_token is not None and self.end_token < 0:
            raise PipelineError(f"end_token is {self.end_token}: give a token, or None")


@dataclass(frozen=True, slots=True)
class TokenRows:
    """A batch of windows: uint16 or uint32 [rows, length + 1]."""

    tokens: torch.Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowsAt:
    """Windows of `length` + 1 tokens of a pool that lives on the device."""

    pool: torch.Tensor
    """uint16 or uint32 [tokens]."""
    starts: torch.Tensor
    """int64 [rows]: the first token of each window."""
    length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowsInOrder:
    """The next windows of an epoch; window w begins at token w * stride of the pool.

    Row r takes position `position + r * step`; a position outside the epoch is a window
    outside the pool.  A captured graph goes on by itself where it also adds
    num_rows * step to `position`.
    """

    pool: torch.Tensor
    """uint16 or uint32 [tokens]."""
    order: torch.Tensor
    """From `window_order`: the epoch's permutation of the windows."""
    position: torch.Tensor
    """int64 [1] on the device: this rank's next position in the epoch."""
    num_rows: int
    length: int
    stride: int | None = None
    """Tokens from window to window; None: `length`, so that each is predicted once."""
    step: int = 1
    """The world: ranks take turns on the positions."""


Windows: TypeAlias = TokenRows | WindowsAt | WindowsInOrder


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenBatch:
    """What a language model takes, and where its documents lie.

    A document is what an end token ends; each row starts a new one at its column 0.
    """

    inputs: torch.Tensor
    """int64 or int32 [rows, length]."""
    labels: torch.Tensor
    """[rows, length], as `inputs`: the next token; `ignore_index` at end tokens, whose next
    token belongs to another document, and where there is none."""
    position_ids: torch.Tensor
    """int32 [rows, length]: from 0 in each document."""
    document_ids: torch.Tensor
    """int32 [rows, length]: counted through the batch; the index of the document in
    `cu_seqlens`."""
    cu_seqlens: torch.Tensor
    """int32 [max_documents + 1]: where documents start in the flattened batch; what is not
    used holds rows * length, which makes documents of no length."""
    num_documents: torch.Tensor
    """int32 [1]: how many there are.  More than `max_documents` did not fit: the last one
    listed then reaches to the end of the batch."""
    state: torch.Tensor
    """int64 words, all zero between launches: how far the programs of a launch are."""

    @classmethod
    def empty(
        cls, num_rows: int, length: int, options: TokenOptions, *, device: torch.device | str
    ) -> TokenBatch:
        """Room for a batch; rows * length must stay below 2**31, as `cu_seqlens` are int32."""
        if num_rows * length >= 2**31:
            raise PipelineError(
                f"{num_rows} rows of {length} tokens: cu_seqlens count in int32, give fewer than "
                "2**31 tokens"
            )

        def room(*shape: int, dtype: torch.dtype = torch.int32) -> torch.Tensor:
            return torch.empty(shape, dtype=dtype, device=device)

        return cls(
            inputs=room(num_rows, length, dtype=options.dtype),
            labels=room(num_rows, length, dtype=options.dtype),
            position_ids=room(num_rows, length),
            document_ids=room(num_rows, length),
            cu_seqlens=room(options.max_documents + 1),
            num_documents=room(1),
            state=torch.zeros(STATE_WORDS, dtype=torch.int64, device=device),
        )
