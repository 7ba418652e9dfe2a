"""Rows as words of bytes: the width that all ragged kernels move.

Stands under the ragged kernels.  Invariant: words are views of the tensors given, of the
widest of 8, 4, 2 and 1 bytes that divides a row and where the tensors begin.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence

import torch

from iopipe.errors import PipelineError

_WORDS = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.uint8}
_FORMATS = {torch.float16: "<e", torch.float32: "<f", torch.float64: "<d"}
_INTEGERS = (
    torch.bool,
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.uint16,
    torch.uint32,
    torch.uint64,
)


def as_words(
    tensors: Sequence[torch.Tensor], width: Sequence[int]
) -> tuple[list[torch.Tensor], int]:
    """Flat views of contiguous tensors of one dtype, and the words in a row of this width.

    Memory from torch's allocators begins at a multiple of 8 bytes; what lies in a larger
    buffer may begin anywhere, and is moved in narrower words then.
    """
    element_bytes = tensors[0].element_size()
    row_bytes = math.prod(width) * element_bytes
    begins = [tensor.storage_offset() * element_bytes for tensor in tensors]
    word_bytes = next(size for size in _WORDS if not any(n % size for n in (row_bytes, *begins)))
    views = [flat(tensor, _WORDS[word_bytes]) for tensor in tensors]
    return views, row_bytes // word_bytes


def flat(tensor: torch.Tensor, word: torch.dtype) -> torch.Tensor:
    """A view of a contiguous tensor as words of this dtype."""
    row = tensor.view(-1)
    if row.is_complex():
        row = torch.view_as_real(row).view(-1)
    return row.view(word)


def fill_word(fill: float, dtype: torch.dtype, word_bytes: int) -> int:
    """A word, as a signed integer, that holds `fill` in each of its elements."""
    element = _element_bytes(fill, dtype)
    repeated = element * max(word_bytes // len(element), 1)
    return int.from_bytes(repeated[:word_bytes], "little", signed=True)


def halves(word: int) -> tuple[int, int]:
    """The low and the high 32 bits as signed integers: torch 2.11's compiler launches a kernel
    with no constant beyond 32 bits."""
    low = (word & 0xFFFFFFFF) ^ 0x80000000
    return low - 0x80000000, word >> 32


def _element_bytes(fill: float, dtype: torch.dtype) -> bytes:
    """`fill` as an element, little endian; all zero where it is 0."""
    if fill == 0 and math.copysign(1, fill) > 0:
        return bytes(dtype.itemsize)
    try:
        if dtype == torch.bool and fill not in (0, 1):
            raise ValueError("neither true nor false")
        if dtype in _INTEGERS and int(fill) == fill:
            return int(fill).to_bytes(dtype.itemsize, "little", signed=dtype.is_signed)
        if dtype == torch.bfloat16:
            return _bfloat16(fill)
        if dtype in _FORMATS:
            return struct.pack(_FORMATS[dtype], fill)
    except (OverflowError, ValueError) as error:
        raise PipelineError(f"fill is {fill!r}: {dtype} does not hold it") from error
    raise PipelineError(f"fill is {fill!r}: {dtype} does not hold it, give 0")


def _bfloat16(fill: float) -> bytes:
    """The upper half of a float32, rounded to the nearest, ties to even."""
    (bits,) = struct.unpack("<I", struct.pack("<f", fill))
    if math.isnan(fill):
        return struct.pack("<H", 0x7FC0)
    return struct.pack("<H", (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16)
