"""Where rows lie, in registers: which of them a tile touches, and where they come from.

Stands under the kernels that copy rows.  Invariant: offsets do not decrease; whatever else
they are, nothing outside their table is read.
"""

from __future__ import annotations

import triton
import triton.language as tl

UNPAD, GATHER, JOIN, PAD = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2), tl.constexpr(3)
"""What a copy does, by the side that its rows are counted on: see `far_begin`."""


@triton.jit
def ends_of_tile(offsets, tokens, num_rows):  # type: ignore[no-untyped-def]
    """The rows of the tile's first and last token: the greatest that begin there or before,
    or row 0."""
    low = tl.zeros((2,), tl.int32)
    size = num_rows + tl.zeros((), tl.int32)
    while size > 1:
        step = (size + 127) // 128
        pivots = low[:, None] + (tl.arange(0, 128) * step)[None, :]
        inside = (pivots < num_rows) & (tl.arange(0, 128) * step < size)[None, :]
        begins = tl.load(offsets + pivots, mask=inside, other=0).to(tl.int64)
        passed = tl.sum((inside & (begins <= tokens[:, None])).to(tl.int32), axis=1)
        low += tl.maximum(passed - 1, 0) * step
        size = step
    return tl.min(low), tl.max(low)


@triton.jit  # type: ignore[untyped-decorator]
def far_begin(offsets, rows, row, limit, KIND: tl.constexpr):  # type: ignore[no-untyped-def]
    """(where the row begins on the side that does not drive, whether it is there)"""
    if KIND == UNPAD:
        begin = row.to(tl.int64) * limit
        exists = row >= 0
    elif KIND == GATHER:
        taken = tl.load(rows + row)
        exists = (taken >= 0) & (taken < limit)
        begin = tl.load(offsets + taken, mask=exists, other=0).to(tl.int64)
    else:
        begin = tl.load(rows + row)
        exists = row >= 0
    return begin, exists
