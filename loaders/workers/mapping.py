"""A file's memory in this process, without a descriptor for it.

Stands under slabs.  Invariant: the memory stays mapped as long as any array over it lives, and
no descriptor stays open for it: `mmap.mmap` keeps a copy of its own, so that a program which
holds on to many batches would run into `ulimit -n`.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import os
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

_FAILED = ctypes.c_void_p(-1).value


def map_shared(
    fd: int, num_bytes: int, *, before_unmap: Callable[[int], None] | None = None
) -> npt.NDArray[np.uint8]:
    """The first `num_bytes` of a file as writable shared memory; `fd` may be closed after it.

    `before_unmap` is called with the address once nothing uses the memory any more.
    `OSError` as mmap(2) has it.
    """
    return np.asarray(_Region(fd, num_bytes, before_unmap))


def map_private(
    num_bytes: int, *, before_unmap: Callable[[int], None] | None = None
) -> npt.NDArray[np.uint8]:
    """The same of memory that is in no file and of this process alone."""
    return np.asarray(_Region(-1, num_bytes, before_unmap))


class _Region:
    """Owns one mapping and shows it to numpy, which keeps this object alive."""

    def __init__(self, fd: int, num_bytes: int, before_unmap: Callable[[int], None] | None) -> None:
        libc = _libc()
        protection = mmap.PROT_READ | mmap.PROT_WRITE
        flags = mmap.MAP_SHARED if fd >= 0 else mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        address = libc.mmap(None, num_bytes, protection, flags, fd, 0)
        if address == _FAILED:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        finalizer = weakref.finalize(self, _unmap, address, num_bytes, before_unmap)
        finalizer.atexit = False  # the process's end unmaps
        self.__array_interface__ = {
            "data": (address, False),
            "shape": (num_bytes,),
            "strides": None,
            "typestr": "|u1",
            "version": 3,
        }


def _unmap(address: int, num_bytes: int, before: Callable[[int], None] | None) -> None:
    if before is not None:
        before(address)
    _libc().munmap(address, num_bytes)


@functools.cache
def _libc() -> Any:
    libc = ctypes.CDLL(None, use_errno=True)
    integer, pointer, size = ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t
    libc.mmap.argtypes = [pointer, size, integer, integer, integer, ctypes.c_long]
    libc.mmap.restype = pointer
    libc.munmap.argtypes = [pointer, size]
    return libc
