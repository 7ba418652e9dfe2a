"""`cu_seqlens` for a batch of packed sequences.

Stands behind the collation.  Invariant: segments follow each other without a gap over the
whole batch, its padding included.
"""

from __future__ import annotations

from typing import Any

import torch


def add_cu_seqlens(columns: dict[str, Any]) -> dict[str, Any]:
    """The columns with `cu_seqlens` int32 [segments + 1]: where each piece of a document, or
    stretch of padding, begins in the batch laid out as one row, and where the last one ends.

    The convention of FlashAttention's variable-length functions.
    """
    documents = columns["document_ids"]
    begins = torch.ones_like(documents, dtype=torch.bool)
    begins[:, 1:] = documents[:, 1:] != documents[:, :-1]
    starts = begins.flatten().nonzero().flatten()
    end = torch.tensor([documents.numel()])
    return {**columns, "cu_seqlens": torch.cat([starts, end]).to(torch.int32)}
