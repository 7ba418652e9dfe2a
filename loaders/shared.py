"""The memory of slots, for this process or for others that write into it too.

Stands under the slots.  Invariant: the memory has no name, and is gone with the last process
that maps it, however it ended.
"""

from __future__ import annotations

import itertools
import os
import weakref

import numpy as np
import numpy.typing as npt
import torch

from iopipe.errors import PipelineError
from iopipe.loaders.pinned import (
    PageLock,
    Pinning,
    advise_and_place,
    advise_huge,
    check_lockable,
    keep_from_children,
)
from iopipe.loaders.slots import Slot
from iopipe.loaders.workers.mapping import map_private, map_shared

_numbers = itertools.count()


class SharedFile:
    """A memfd, open as long as this object lives; `number` is its own in this process."""

    def __init__(self, num_bytes: int) -> None:
        self.number = next(_numbers)
        self.num_bytes = num_bytes
        self.fd = os.memfd_create("iopipe-slot", os.MFD_CLOEXEC)
        # Not at the program's end, when threads may still be about to send it.
        weakref.finalize(self, os.close, self.fd).atexit = False
        try:
            os.ftruncate(self.fd, num_bytes)
        except OSError as error:
            raise PipelineError(
                f"no shared memory of {num_bytes} bytes for a slot: {error.strerror}; use a "
                "smaller batch"
            ) from error


def shared_slot(num_bytes: int, *, pinning: Pinning | None, node: int | None = None) -> Slot:
    """A slot in a file of its own; where there is a device to copy it to page-locked, and in
    memory of `node`."""
    file = SharedFile(num_bytes)
    lock = None if pinning is None else PageLock(pinning)
    memory = map_shared(file.fd, num_bytes, before_unmap=None if lock is None else lock.release)
    _prepare(memory, lock, node)
    return Slot(torch.from_numpy(memory), file)


def private_slot(
    num_bytes: int, *, pinning: Pinning | None = None, node: int | None = None
) -> Slot:
    """The same in memory of this process alone."""
    lock = None if pinning is None else PageLock(pinning)
    memory = map_private(num_bytes, before_unmap=None if lock is None else lock.release)
    if lock is not None:
        keep_from_children(memory)
    _prepare(memory, lock, node)
    return Slot(torch.from_numpy(memory))


def _prepare(memory: npt.NDArray[np.uint8], lock: PageLock | None, node: int | None) -> None:
    if lock is None:
        advise_huge(memory)
        return
    check_lockable(memory.nbytes)
    advise_and_place(memory, node)
    lock.hold(memory)
