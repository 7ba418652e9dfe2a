"""Where memory comes from: the kernel's NUMA system calls, without a library.

Stands below `binding` and whoever allocates slabs.  Invariant: what was asked for is read back;
what the kernel refuses is an error with its name (EPERM, ENOSYS), never silence.

Source of numbers and flags: include/uapi/linux/mempolicy.h and the system call tables of x86-64
and of the generic architectures (aarch64); set_mempolicy(2), mbind(2), move_pages(2).
"""

from __future__ import annotations

import ctypes
import errno
import functools
import mmap
import os
import platform
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

from iopipe.errors import PipelineError, StorageError

Policy: TypeAlias = Literal["default", "preferred", "bind", "interleave", "local"]

_MODES: tuple[Policy, ...] = ("default", "preferred", "bind", "interleave", "local")
"""In the order of their numbers, MPOL_DEFAULT being 0."""
_MODE_BITS = 0xFF
"""Flags (MPOL_F_STATIC_NODES and others) are above."""
_MOVE = 1 << 1
_NUM_NODES = 1024
"""As many as a kernel can be built for (CONFIG_NODES_SHIFT=10); it takes one for itself."""
_NUMBERS = {
    "x86_64": {"mbind": 237, "set_mempolicy": 238, "get_mempolicy": 239, "move_pages": 279},
    "aarch64": {"mbind": 235, "get_mempolicy": 236, "set_mempolicy": 237, "move_pages": 239},
}
_REMEDIES = {
    errno.EPERM: "a seccomp profile forbids it: Docker's does without --cap-add SYS_NICE",
    errno.ENOSYS: "this kernel has no NUMA, or a seccomp profile hides it",
    errno.EINVAL: "a node is offline, has no memory, or the cpuset forbids it",
    errno.EIO: "pages that are there already could not be moved",
}

_Mask: TypeAlias = Any


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPolicy:
    """Of one thread: from which nodes its new pages come."""

    mode: Policy
    nodes: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where the pages of a buffer really are."""

    pages_of_node: Mapping[int, int]
    num_absent: int
    """Pages that nobody has written to yet: they are nowhere."""


def get_policy() -> MemoryPolicy:
    """Of the calling thread.  `StorageError` where the kernel refuses."""
    mode, mask = ctypes.c_int(-1), _mask(())
    _call("get_mempolicy", ctypes.addressof(mode), ctypes.addressof(mask), _NUM_NODES + 1, 0, 0)
    return MemoryPolicy(mode=_mode(mode.value), nodes=_nodes(mask))


def set_policy(policy: MemoryPolicy) -> None:
    """Of the calling thread, and of threads and processes that it starts from now on; pages
    that are there already stay where they are."""
    mask = _mask(policy.nodes)
    address, size = (ctypes.addressof(mask), _NUM_NODES + 1) if policy.nodes else (0, 0)
    _call("set_mempolicy", _MODES.index(policy.mode), address, size)


def place(buffer: memoryview, policy: MemoryPolicy) -> None:
    """Let the whole pages of `buffer` come from `policy`'s nodes, whoever touches them first,
    and move those that are there already.  The buffer must begin at a page (mmap does)."""
    address, length = _span(buffer)
    if address % mmap.PAGESIZE:
        raise PipelineError(
            f"a buffer at address {address:#x} does not begin at a page of {mmap.PAGESIZE} bytes: "
            "take it from mmap"
        )
    mask = _mask(policy.nodes)
    where, size = (ctypes.addressof(mask), _NUM_NODES + 1) if policy.nodes else (0, 0)
    _call("mbind", address, length, _MODES.index(policy.mode), where, size, _MOVE)


def find_pages(buffer: memoryview) -> Placement:
    """Ask the kernel on which node each page of `buffer` is.  Writable buffers only."""
    address, length = _span(buffer)
    first = address // mmap.PAGESIZE * mmap.PAGESIZE
    num_pages = -(-(address + length - first) // mmap.PAGESIZE)
    pages = (ctypes.c_void_p * num_pages)(
        *range(first, first + num_pages * mmap.PAGESIZE, mmap.PAGESIZE)
    )
    status = (ctypes.c_int * num_pages)(*[-errno.EBUSY] * num_pages)
    where = ctypes.addressof(pages), 0, ctypes.addressof(status)
    _call("move_pages", 0, num_pages, *where, 0)
    counts = Counter(status)
    absent = sum(count for code, count in counts.items() if code in (-errno.ENOENT, -errno.EFAULT))
    unknown = [code for code in counts if code < 0 and code not in (-errno.ENOENT, -errno.EFAULT)]
    if unknown:
        raise _refused("move_pages", -unknown[0])
    found = {code: count for code, count in sorted(counts.items()) if code >= 0}
    return Placement(pages_of_node=MappingProxyType(found), num_absent=absent)


def _span(buffer: memoryview) -> tuple[int, int]:
    if buffer.readonly or not buffer.contiguous or not buffer.nbytes:
        raise PipelineError("a buffer that is read-only, empty or has gaps has no place of its own")
    held = (ctypes.c_char * buffer.nbytes).from_buffer(buffer)
    return ctypes.addressof(held), buffer.nbytes


def _mask(nodes: tuple[int, ...]) -> _Mask:
    outside = [node for node in nodes if not 0 <= node < _NUM_NODES]
    if outside:
        raise PipelineError(f"node {outside[0]} cannot be: give 0 to {_NUM_NODES - 1}")
    words = [0] * (_NUM_NODES // 64)
    for node in nodes:
        words[node // 64] |= 1 << node % 64
    return (ctypes.c_uint64 * len(words))(*words)


def _nodes(mask: _Mask) -> tuple[int, ...]:
    return tuple(
        64 * place + bit for place, word in enumerate(mask) for bit in range(64) if word >> bit & 1
    )


def _mode(number: int) -> Policy:
    """Modes that came later (PREFERRED_MANY, WEIGHTED_INTERLEAVE) are not set here."""
    if number & _MODE_BITS >= len(_MODES):
        raise StorageError(
            f"this thread has memory policy {number}, which is not known here: start it without"
        )
    return _MODES[number & _MODE_BITS]


def _call(name: str, *arguments: int) -> int:
    numbers = _NUMBERS.get(platform.machine())
    if numbers is None:
        raise StorageError(
            f"cannot call {name}: its number on {platform.machine()} is not known here, only on "
            f"{', '.join(_NUMBERS)}"
        )
    answer: int = _syscall()(numbers[name], *[ctypes.c_ulong(word) for word in arguments])
    if answer < 0:
        raise _refused(name, ctypes.get_errno())
    return answer


def _refused(name: str, code: int) -> StorageError:
    word = errno.errorcode.get(code, str(code))
    remedy = _REMEDIES.get(code, "see its manual page")
    return StorageError(f"{name} failed with {word} ({os.strerror(code).lower()}): {remedy}")


@functools.cache
def _syscall() -> Any:
    call = ctypes.CDLL(None, use_errno=True).syscall
    call.restype = ctypes.c_long
    return call
