"""Memory that a worker writes batches into and the trainer's process reads them from.

Stands under the messages between the two.  Invariant: a slab is written again only after its
last tensor in the trainer's process is gone.  Slabs are memfds: they have no name, take nothing
of /dev/shm's limit, and are gone with the last process that maps them, however it died.
"""

from __future__ import annotations

import math
import os
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from iopipe.loaders.workers.mapping import map_shared

ALIGNMENT = 64
_ROUNDING_BYTES = 1 << 21
_MAX_FREE = 8
"""Slabs that a worker keeps for later; more come back only where the trainer let go of many
batches at once."""


class Slab:
    """One memfd, mapped; `number` names it in messages of its worker."""

    __slots__ = ("address", "fd", "memory", "num_bytes", "number")

    def __init__(self, number: int, fd: int, num_bytes: int) -> None:
        self.number = number
        self.fd = fd
        """Of the worker's side, until the other side has it; -1 after that, and there."""
        self.num_bytes = num_bytes
        self.memory = map_shared(fd, num_bytes)
        self.address = int(self.memory.ctypes.data)


class Arena:
    """The slabs of one worker.  Not thread-safe: one batch after the other.

    `empty` gives room in the batch that is being made, `finish` ends it.
    """

    def __init__(self) -> None:
        self._slabs: dict[int, Slab] = {}
        self._free: list[Slab] = []
        self._batch: list[Slab] = []
        self._used_bytes = 0
        """Of the last slab of the batch."""
        self._batch_bytes = 0
        self._typical_bytes = 0
        self._next_number = 0

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """A contiguous tensor in the slab of the current batch."""
        count = math.prod(shape)
        num_bytes = count * dtype.itemsize
        if not num_bytes:
            return torch.empty(tuple(shape), dtype=dtype)
        slab, offset = self._room(num_bytes)
        flat = torch.frombuffer(slab.memory, dtype=dtype, count=count, offset=offset)
        return flat.view(tuple(shape))

    def place(self, tensor: torch.Tensor) -> tuple[int, int] | None:
        """(slab, offset) of a tensor that lies in the current batch; None of any other."""
        address = tensor.data_ptr()
        for slab in self._batch:
            if 0 <= address - slab.address < slab.num_bytes:
                return slab.number, address - slab.address
        return None

    def finish(self, used: set[int]) -> tuple[list[Slab], list[int]]:
        """End the batch, of which `used` slabs travel on: (slabs that are new to the other
        side, numbers of those that are gone)."""
        new = [slab for slab in self._batch if slab.number in used and slab.fd >= 0]
        self._free += [slab for slab in self._batch if slab.number not in used]
        self._typical_bytes = max(self._typical_bytes, self._batch_bytes)
        self._batch, self._used_bytes, self._batch_bytes = [], 0, 0
        return new, self._trim()

    def sent(self, new: Sequence[Slab]) -> None:
        """The other side has these: their descriptors are not needed any more."""
        for slab in new:
            os.close(slab.fd)
            slab.fd = -1

    def give_back(self, numbers: Sequence[int]) -> None:
        """The other side has let go of these slabs."""
        self._free += [self._slabs[number] for number in numbers if number in self._slabs]

    def _room(self, num_bytes: int) -> tuple[Slab, int]:
        self._batch_bytes += -(-num_bytes // ALIGNMENT) * ALIGNMENT
        if self._batch and self._batch[-1].num_bytes - self._used_bytes >= num_bytes:
            slab, offset = self._batch[-1], self._used_bytes
        else:
            slab, offset = self._take(num_bytes), 0
            self._batch.append(slab)
        self._used_bytes = -(-(offset + num_bytes) // ALIGNMENT) * ALIGNMENT
        return slab, offset

    def _take(self, num_bytes: int) -> Slab:
        wanted = num_bytes if self._batch else max(num_bytes, self._typical_bytes)
        fitting = [slab for slab in self._free if slab.num_bytes >= wanted]
        if fitting:
            slab = min(fitting, key=lambda slab: slab.num_bytes)
            self._free.remove(slab)
            return slab
        size = -(-wanted // _ROUNDING_BYTES) * _ROUNDING_BYTES
        fd = os.memfd_create("iopipe-slab", os.MFD_CLOEXEC)
        os.ftruncate(fd, size)
        slab = Slab(self._next_number, fd, size)
        self._next_number += 1
        self._slabs[slab.number] = slab
        return slab

    def _trim(self) -> list[int]:
        """Forget slabs that are too small for a batch by now, and those above the limit."""
        small = [slab for slab in self._free if slab.num_bytes < self._typical_bytes]
        fitting = [slab for slab in self._free if slab.num_bytes >= self._typical_bytes]
        self._free, gone = fitting[:_MAX_FREE], small + fitting[_MAX_FREE:]
        for slab in gone:
            del self._slabs[slab.number]
            if slab.fd >= 0:
                os.close(slab.fd)
                slab.fd = -1
        return [slab.number for slab in gone]


class Mappings:
    """The slabs of one worker as the trainer's process sees them.

    `lent` hands out arrays over them; `freed` collects the numbers of those whose last tensor
    is gone, from whichever thread let it go.
    """

    def __init__(self, freed: Callable[[int], None]) -> None:
        self._slabs: dict[int, Slab] = {}
        self._freed = freed

    def add(self, number: int, fd: int, num_bytes: int) -> None:
        """Takes over `fd`."""
        try:
            slab = Slab(number, fd, num_bytes)
        finally:
            os.close(fd)
        slab.fd = -1
        self._slabs[number] = slab

    def drop(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            self._slabs.pop(number, None)

    def lent(self, number: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """The whole slab as bytes; it goes back once nothing refers to this array's memory."""
        lease = _Lease(self._slabs[number])
        finalizer = weakref.finalize(lease, self._freed, number)
        finalizer.atexit = False
        return np.asarray(lease)


class _Lease:
    """Shows a slab to numpy, which keeps this object for as long as anything needs the memory."""

    def __init__(self, slab: Slab) -> None:
        self._slab = slab
        self.__array_interface__ = {
            "data": (slab.address, False),
            "shape": (slab.num_bytes,),
            "strides": None,
            "typestr": "|u1",
            "version": 3,
        }
