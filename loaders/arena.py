"""Room in a slot for the arrays of one batch, before the batch exists.

Stands between decode and collation: what a decoder writes here need not be copied again.
Invariant: rows handed out to different chunks never overlap.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from iopipe.loaders.slots import Slot

ALIGNMENT_BYTES = 256
"""What CUDA's own allocator aligns to; wide loads and copies want no less."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where one tensor lies in a payload."""

    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    tensor_dtype: torch.dtype | None = None
    """Of the tensor, where numpy has no such type and `dtype` only as many bytes."""

    @property
    def num_bytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    def view(self, payload: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
        raw = payload[self.offset : self.offset + self.num_bytes]
        return raw.view(self.dtype).reshape(self.shape)


Layout: TypeAlias = dict[str, tuple[tuple[int, ...], np.dtype[Any]]]
"""By column: the shape of a row, and the dtype."""


def aligned(offset: int) -> int:
    return -(-offset // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


class Arena:
    """Places for the columns of a batch of `num_rows`, in a slot that is taken when the
    first of them is asked for; thread-safe."""

    def __init__(self, num_rows: int, take: Callable[[int], Slot]) -> None:
        self._num_rows = num_rows
        self._take = take
        self._lock = threading.Lock()
        self._places: dict[str, Place] = {}
        self.slot: Slot | None = None
        self.num_bytes = 0

    @property
    def places(self) -> Mapping[str, Place]:
        return self._places

    def rows(
        self, name: str, first_row: int, shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> npt.NDArray[Any] | None:
        """Rows first_row .. first_row + shape[0] - 1 of a column; None where the slot has
        no room for it, or where the column was begun with another shape."""
        with self._lock:
            place = self._places.get(name) or self._begin(name, shape[1:], dtype)
        if place is None or self.slot is None:
            return None
        if place.shape[1:] != shape[1:] or place.dtype != dtype:
            return None
        return place.view(self.slot.buffer.numpy())[first_row : first_row + shape[0]]

    def _begin(self, name: str, row: tuple[int, ...], dtype: np.dtype[Any]) -> Place | None:
        place = Place(aligned(self.num_bytes), (self._num_rows, *row), dtype)
        end = place.offset + place.num_bytes
        if self.slot is None:
            self.slot = self._take(end)
        if end > self.slot.num_bytes:
            return None
        self._places[name] = place
        self.num_bytes = end
        return place


class Room:
    """The rows of one chunk in the arena of its batch: an `Allocate`."""

    def __init__(self, arena: Arena, row: int, known: Layout) -> None:
        """`known` are the columns of earlier chunks; what is learnt is added to it."""
        self._arena = arena
        self._row = row
        self._known = known

    def __call__(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        rows = self._arena.rows(name, self._row, shape, dtype)
        return np.empty(shape, dtype) if rows is None else rows

    def learn(self, name: str, array: npt.NDArray[Any]) -> None:
        """Chunks to come will probably have such a column, too."""
        self._known[name] = array.shape[1:], array.dtype

    def reserved(self, num_rows: int) -> tuple[Slot | None, dict[str, Place]]:
        """The slot, and where in it `num_rows` of each known column go."""
        found = {}
        for name, (row, dtype) in list(self._known.items()):
            rows = self._arena.rows(name, self._row, (num_rows, *row), dtype)
            if rows is not None:
                begin = self._arena.places[name].offset
                row_bytes = int(np.prod(row, dtype=np.int64)) * dtype.itemsize
                found[name] = Place(begin + self._row * row_bytes, rows.shape, dtype)
        return self._arena.slot, found
