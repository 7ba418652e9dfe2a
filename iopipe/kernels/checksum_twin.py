"""The naive twin of `checksum`: words folded in pairs until one is left.

Invariant: zeros in front change no remainder, so every range is padded there to one length.
"""

from __future__ import annotations

import torch

from iopipe.kernels.crc_field import shift_columns

_RANGES_AT_ONCE = 128
"""A bound on memory: the words of that many ranges are spelled out at a time."""


def crc32c(data: torch.Tensor, offsets: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """What `checksum.crc32c` answers, by plain torch operations; waits for the device."""
    answers = [
        _of_group(data, offsets[first:][:_RANGES_AT_ONCE], lengths[first:][:_RANGES_AT_ONCE])
        for first in range(0, len(offsets), _RANGES_AT_ONCE)
    ]
    return torch.cat(answers) if answers else torch.empty_like(offsets)


def _of_group(data: torch.Tensor, offsets: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    inside = (offsets >= 0) & (lengths >= 0) & (offsets <= data.numel() - lengths)
    lengths = torch.where(inside, lengths, 0)
    num_words = max(2, 1 << (int(lengths.max()) + 3 >> 2).bit_length())
    remainder = folded(padded_words(data, offsets, lengths, num_words))
    # A checksum is the remainder of the message times x**32, for a register of ones.
    remainder = _shifted(remainder, 32) ^ _ones_after(lengths) ^ 0xFFFFFFFF
    return torch.where(inside, remainder, -1)


def padded_words(
    data: torch.Tensor, offsets: torch.Tensor, lengths: torch.Tensor, num_words: int
) -> torch.Tensor:
    """int64 [ranges, num_words]: little-endian words, zeros in front."""
    place = torch.arange(4 * num_words, device=data.device) - 4 * num_words
    place = place + lengths[:, None]
    address = (offsets[:, None] + place).clamp(0, max(0, data.numel() - 1))
    bytes_ = torch.where(place >= 0, data[address], 0) if data.numel() else place * 0
    parts = bytes_.reshape(len(offsets), num_words, 4).long()
    return parts[..., 0] | parts[..., 1] << 8 | parts[..., 2] << 16 | parts[..., 3] << 24


def folded(words: torch.Tensor) -> torch.Tensor:
    """int64 [ranges]: the remainder of each row of 2**k words."""
    span = 32
    while words.shape[1] > 1:
        words = _shifted(words[:, ::2], span) ^ words[:, 1::2]
        span *= 2
    return words[:, 0]


def _shifted(words: torch.Tensor, exponent: int) -> torch.Tensor:
    """words * x**exponent, bit by bit."""
    result = torch.zeros_like(words)
    for bit, column in enumerate(shift_columns(exponent)):
        result = result ^ torch.where((words >> bit) & 1 == 1, column & 0xFFFFFFFF, 0)
    return result


def _ones_after(lengths: torch.Tensor) -> torch.Tensor:
    """A register of ones after that many bytes of zeros."""
    register = torch.full_like(lengths, 0xFFFFFFFF)
    for bit in range(40):
        shifted = _shifted(register, 8 << bit)
        register = torch.where((lengths >> bit) & 1 == 1, shifted, register)
    return register
