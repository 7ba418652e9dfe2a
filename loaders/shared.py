"""Slots that other processes can write into.

Stands under the slots where samples are made by worker processes.  Invariant: the memory has no
name, and is gone with the last process that maps it, however it ended.
"""

from __future__ import annotations

import itertools
import os
import weakref
from typing import Protocol

import torch

from iopipe.errors import PipelineError
from iopipe.loaders.slots import Slot
from iopipe.loaders.workers.mapping import map_shared

_numbers = itertools.count()


class Pinning(Protocol):
    """Page-locks memory that is there already."""

    def pin(self, address: int, num_bytes: int) -> None: ...

    def unpin(self, address: int) -> None: ...


class SharedFile:
    """A memfd, open as long as this object lives; `number` is its own in this process."""

    def __init__(self, num_bytes: int) -> None:
        self.number = next(_numbers)
        self.num_bytes = num_bytes
        self.fd = os.memfd_create("iopipe-slot", os.MFD_CLOEXEC)
        weakref.finalize(self, os.close, self.fd)
        try:
            os.ftruncate(self.fd, num_bytes)
        except OSError as error:
            raise PipelineError(
                f"no shared memory of {num_bytes} bytes for a slot: {error.strerror}; use a "
                "smaller batch"
            ) from error


def shared_slot(num_bytes: int, *, pinning: Pinning | None) -> Slot:
    """A slot in a file of its own; page-locked where there is a device to copy it to."""
    file = SharedFile(num_bytes)
    unpin = None if pinning is None else pinning.unpin
    memory = map_shared(file.fd, num_bytes, before_unmap=unpin)
    if pinning is not None:
        pinning.pin(int(memory.ctypes.data), num_bytes)
    return Slot(torch.from_numpy(memory), file)
