"""Tensors with poison before, in and behind them: writes out of bounds show."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

POISON = 0xA5
GUARD_BYTES = 256


class Guards:
    """Makes poisoned tensors and says whether anybody wrote around them."""

    def __init__(self, device: str) -> None:
        self.device = device
        self._bands: list[torch.Tensor] = []

    def room(
        self, shape: Sequence[int], dtype: torch.dtype, *, shift_elements: int = 0
    ) -> torch.Tensor:
        """A contiguous poisoned tensor, so many elements behind an aligned address."""
        begin = GUARD_BYTES + shift_elements * dtype.itemsize
        end = begin + math.prod(shape) * dtype.itemsize
        whole = -(-(end + GUARD_BYTES) // 16) * 16
        buffer = torch.full((whole,), POISON, dtype=torch.uint8, device=self.device)
        self._bands += [buffer[:begin], buffer[end:]]
        # A view of the whole as this dtype comes first: it needs no aligned slice.
        first = begin // dtype.itemsize
        return buffer.view(dtype)[first : first + math.prod(shape)].view(*shape)

    def check(self) -> None:
        """All bands still hold what they were made with."""
        assert all(bool((band == POISON).all()) for band in self._bands)
