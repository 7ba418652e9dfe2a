"""The naive twin of `columns`: one torch operation a step, nothing fused.

Invariant: no step is clever; every value is spelled out in an int64 or float32 of its own.
"""

from __future__ import annotations

import torch

from iopipe.kernels.columns import Affine, EncodedColumn
from iopipe.kernels.packed import Packed


def unpack(packed: Packed, numbers: torch.Tensor) -> torch.Tensor:
    """int64: the values of these numbers; any value where a number is out of range."""
    width, runs = packed.bit_width, packed.runs
    if width == 0:
        return torch.zeros_like(numbers)
    if runs is None:
        return _at(packed.data, (packed.first + numbers) * width, width)
    run = torch.searchsorted(runs[0].contiguous(), numbers, right=True) - 1
    run = run.clamp(0, runs.shape[1] - 1)
    start, place = runs[0][run], runs[1][run]
    values = _at(packed.data, place + (numbers - start) * width, width)
    return torch.where(place >= 0, values, -1 - place)


def _at(data: torch.Tensor, bits: torch.Tensor, width: int) -> torch.Tensor:
    """The `width` bits that begin at each bit, from the five bytes that can hold them."""
    word = torch.zeros_like(bits)
    for number in range((width + 14) // 8):
        byte = ((bits >> 3) + number).clamp(0, data.numel() - 1)
        word |= data[byte].long() << (8 * number)
    kept: int = 2**width - 1
    return (word >> (bits & 7)) & kept


def decode_column(
    column: EncodedColumn, *, dtype: torch.dtype, affine: Affine | None = None
) -> torch.Tensor:
    """What `columns.decode_column` answers."""
    affine = affine or Affine()
    codes, validity, dictionary = column.codes, column.validity, column.dictionary
    rows = torch.arange(column.num_rows, device=codes.data.device)
    valid = torch.ones_like(rows, dtype=torch.bool)
    if validity is not None:
        valid = (unpack(validity, rows) != 0) & (rows < _limit(validity))
    numbers = valid.long().cumsum(0) - 1 if column.compact else rows
    known = numbers < _limit(codes)
    values = unpack(codes, numbers)
    if dictionary is not None:
        known &= values < dictionary.numel()
        values = dictionary[values.clamp(0, dictionary.numel() - 1)]
    if not dtype.is_floating_point:
        values = torch.where(known, values.to(dtype), -1)
        return torch.where(valid, values, int(affine.fill))
    values = torch.where(known, values.float(), float("nan"))
    values = torch.where(valid, values, affine.fill)
    return ((values - affine.mean) * affine.inv_std).to(dtype)


def _limit(packed: Packed) -> torch.Tensor | int:
    """How many values there are."""
    if packed.runs is None:
        return packed.num_values
    return packed.runs[0, -1].clamp(max=packed.num_values)
