"""Which window of a token pool comes at which position: iopipe's permutation, on the device.

Stands between an order's keys and the token kernel.  Invariant: `permuted` sends a position
where `iopipe.order.permute` sends it, bit by bit, so an epoch means the same windows whoever
computes it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from iopipe.errors import PipelineError

NUM_WORDS = 5
"""num_windows, rows, columns, and the reciprocals of rows and columns stand before the keys."""


def window_order(num_windows: int, round_keys: Sequence[int], *, device: str) -> torch.Tensor:
    """The order of an epoch for the token kernel: int64 [5 + rounds] on `device`.

    `round_keys` are `iopipe.order.round_keys((seed, epoch))`, 64 bits each and an even number
    of them.  Needs 1 <= num_windows <= 2**62.  Copies a few hundred bytes: make it once an epoch.

    Division by the sides of the grid is a multiplication by `floor(2**64 / side)` and one
    correction (Granlund & Montgomery 1994, Division by Invariant Integers).
    """
    if not 1 <= num_windows <= 2**62:
        raise PipelineError(f"num_windows is {num_windows}: give 1 to 2**62")
    if len(round_keys) % 2:
        raise PipelineError(f"{len(round_keys)} round keys: give an even number of them")
    num_rows = max(math.isqrt(num_windows), 2)
    num_columns = -(-num_windows // num_rows)
    # For a side of 1 the reciprocal has 65 bits; the largest of 64 errs by less than one too.
    reciprocals = [min(2**64 // side, 2**64 - 1) for side in (num_rows, num_columns)]
    words = [num_windows, num_rows, num_columns, *reciprocals, *map(int, round_keys)]
    return torch.tensor([_signed(word) for word in words], dtype=torch.int64, device=device)


def _signed(word: int) -> int:
    return word - 2**64 if word >= 2**63 else word


@triton.jit
def _word(order, index):  # type: ignore[no-untyped-def]
    return tl.load(order + index).to(tl.uint64, bitcast=True)


@triton.jit
def _moved(place, other, key, side, reciprocal):  # type: ignore[no-untyped-def]
    """`place` moved round its side by 40 bits of a hash of `other` and the key."""
    mixed = other ^ key
    mixed *= 0xBF58476D1CE4E5B9
    mixed ^= mixed >> 32
    mixed *= 0x94D049BB133111EB
    total = (mixed >> 24) + place
    # total < 2**41, so the quotient is short by one at most.
    rest = total - tl.umulhi(total, reciprocal) * side
    return tl.where(rest >= side, rest - side, rest)


@triton.jit  # type: ignore[untyped-decorator]
def permuted(position, order, ROUNDS: tl.constexpr):  # type: ignore[no-untyped-def]
    """The window at `position`, an int64 scalar in [0, num_windows)."""
    num_windows = _word(order, 0)
    num_rows, num_columns = _word(order, 1), _word(order, 2)
    of_rows, of_columns = _word(order, 3), _word(order, 4)
    cell = position.to(tl.uint64, bitcast=True)
    walking = position >= 0
    while walking:
        row = cell // num_columns
        column = cell - row * num_columns
        for index in tl.static_range(0, ROUNDS, 2):
            row = _moved(row, column, _word(order, 5 + index), num_rows, of_rows)
            column = _moved(column, row, _word(order, 6 + index), num_columns, of_columns)
        cell = row * num_columns + column
        walking = cell >= num_windows
    return cell.to(tl.int64, bitcast=True)


FUNCTIONS = (permuted, _moved, _word)
