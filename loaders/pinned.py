"""Memory of the host that a device copies from: on huge pages, near the device, page-locked.

Stands under the slots.  Invariant: what cannot be had is said by name: a page-lock that fails is
an error, huge pages or a node that the kernel did not give are logged once.
"""

from __future__ import annotations

import ctypes
import logging
import mmap
import os
import resource
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from iopipe.errors import PipelineError, StorageError
from iopipe.topology import MemoryPolicy, find_pages, place
from iopipe.topology.cgroups import memory_left
from iopipe.topology.tree import Tree

HUGE_PAGE_BYTES = 2 << 20
_log = logging.getLogger(__name__)
_told: set[str] = set()


class Pinning(Protocol):
    """Page-locks memory that is there already."""

    def pin(self, address: int, num_bytes: int) -> None: ...

    def unpin(self, address: int) -> None: ...


class PageLock:
    """The page-lock of one stretch of memory, from `hold` until `release`."""

    def __init__(self, pinning: Pinning) -> None:
        self._pinning = pinning
        self._is_held = False

    def hold(self, memory: npt.NDArray[np.uint8]) -> None:
        self._pinning.pin(int(memory.ctypes.data), memory.nbytes)
        self._is_held = True

    def release(self, address: int) -> None:
        """Also where `hold` was refused: to unlock what is not locked would be an error, which
        CUDA reports with the next kernel that is launched."""
        if self._is_held:
            self._pinning.unpin(address)


def advise_and_place(memory: npt.NDArray[np.uint8], node: int | None) -> None:
    """Ask for huge pages and for those of `node`, before anything was written: then write, so
    that the pages are there, and see where they came to lie."""
    advise_huge(memory)
    if node is not None:
        try:
            place(memory.data, MemoryPolicy(mode="preferred", nodes=(node,)))
        except StorageError as error:
            _say_once(f"slots are not placed near the device: {error}")
    memory[:: mmap.PAGESIZE] = 0
    if node is not None:
        _verify(memory, node)


def advise_huge(memory: npt.NDArray[np.uint8]) -> None:
    """madvise(MADV_HUGEPAGE): fewer page faults and TLB misses for copies that stride."""
    _advise(memory, mmap.MADV_HUGEPAGE, "have small pages")


def keep_from_children(memory: npt.NDArray[np.uint8]) -> None:
    """madvise(MADV_DONTFORK) for locked memory of this process alone: where a child had it too,
    the first to write after a fork would get another page, and the device keep the old one."""
    _advise(memory, mmap.MADV_DONTFORK, "are inherited by forked children")


def _advise(memory: npt.NDArray[np.uint8], advice: int, otherwise: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    address, size = ctypes.c_void_p(memory.ctypes.data), ctypes.c_size_t(memory.nbytes)
    if libc.madvise(address, size, advice):
        _say_once(f"slots {otherwise}: madvise says {os.strerror(ctypes.get_errno()).lower()}")


def check_lockable(num_bytes: int, *, root: Path = Path("/")) -> None:
    """`PipelineError` where the machine, or the container's limit, has not so much memory left:
    locked pages cannot be taken back, so that the kernel would end processes instead."""
    available = available_bytes(root)
    if available is not None and num_bytes > available:
        raise PipelineError(
            f"a slot of {num_bytes >> 20} MiB does not fit into the {available >> 20} MiB of "
            "memory that are left, and it must be page-locked: use a smaller batch, or raise the "
            "container's memory limit"
        )
    left = memory_left(Tree(root))
    if left is not None and num_bytes > left:
        raise PipelineError(
            f"a slot of {num_bytes >> 20} MiB does not fit into the {left >> 20} MiB that the "
            "container's memory limit leaves, and it must be page-locked: raise the limit (docker "
            "run --memory, Kubernetes resources.limits.memory), or use a smaller batch"
        )


def available_bytes(root: Path = Path("/")) -> int | None:
    """What /proc/meminfo says is available; None where it does not say."""
    try:
        text = (root / "proc/meminfo").read_text()
    except OSError:
        return None
    for line in text.splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def lock_failure(num_bytes: int, said: Any) -> PipelineError:
    """Why `num_bytes` could not be page-locked, and what to raise."""
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    limit = "no limit" if soft == resource.RLIM_INFINITY else f"{soft >> 10} KiB"
    available = available_bytes()
    left = "" if available is None else f", {available >> 20} MiB of memory are available"
    return PipelineError(
        f"CUDA could not page-lock {num_bytes} bytes ({said}); RLIMIT_MEMLOCK is {limit}{left}: "
        "raise `ulimit -l` (docker run --ulimit memlock=-1) and the container's memory limit, or "
        "use a smaller batch"
    )


def _verify(memory: npt.NDArray[np.uint8], node: int) -> None:
    try:
        found = find_pages(memory.data).pages_of_node
    except StorageError as error:
        _say_once(f"it is not known where slots lie: {error}")
        return
    elsewhere = sum(num for where, num in found.items() if where != node)
    if elsewhere:
        _say_once(f"{elsewhere} pages of a slot lie elsewhere than on node {node}: {dict(found)}")


def _say_once(text: str) -> None:
    if text not in _told:
        _told.add(text)
        _log.warning("%s", text)
