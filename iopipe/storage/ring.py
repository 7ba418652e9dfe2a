"""One io_uring, through its three system calls.

Stands between `storage.uring` and the kernel.  Invariant: one thread alone writes the submission
queue and reads the completion queue, and the kernel does its part in calls of that thread.

Why plain loads and stores are enough, on x86-64 and on aarch64 alike: without SQPOLL the kernel
reads the submission queue inside io_uring_enter(2), called by the thread that wrote it.  With
DEFER_TASKRUN it writes completions only there too: what finishes elsewhere is queued as work of
this thread and run when it asks for events, see io_uring_setup(2).  Both sides of both queues are
thus one thread, whose own order of memory needs no barrier.  That costs Linux 6.1.

Source of all numbers: include/uapi/linux/io_uring.h.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import mmap
import os
import struct
from typing import Any

from iopipe.errors import StorageError

# The same on all architectures that came after 5.1's unified table, x86-64 and aarch64 among them.
_NR_SETUP, _NR_ENTER, _NR_REGISTER = 425, 426, 427

_R_DISABLED, _SUBMIT_ALL, _SINGLE_ISSUER, _DEFER_TASKRUN = 1 << 6, 1 << 7, 1 << 12, 1 << 13
_FEAT_SINGLE_MMAP = 1
_REGISTER_BUFFERS, _REGISTER_ENABLE_RINGS = 0, 12
_ENTER_GETEVENTS = 1
_OFF_RINGS, _OFF_SQES = 0, 0x10000000
_OP_READ_FIXED, _OP_READ = 4, 22

_PARAMS = struct.Struct("=10I 10I 10I")
"""io_uring_params; of the two groups of offsets the last two words are one unused number."""
_SQE = struct.Struct("=BBHiQQIIQHHiQQ")
_CQE = struct.Struct("=QiI")

_REMEDIES = {
    errno.ENOSYS: "this kernel has none, or a seccomp profile hides it",
    errno.EPERM: "kernel.io_uring_disabled or a seccomp profile (Docker's default) forbids it",
    errno.EACCES: "a security module forbids it",
    errno.EINVAL: "Linux 6.1 or newer is needed (IORING_SETUP_DEFER_TASKRUN)",
    errno.ENOMEM: "raise `ulimit -l` or lower queue_depth and bounce_bytes",
}


class Ring:
    """A ring with places for `entries` reads, a power of two; owns its descriptor and maps."""

    def __init__(self, entries: int) -> None:
        params = bytearray(_PARAMS.size)
        flags = _R_DISABLED | _SUBMIT_ALL | _SINGLE_ISSUER | _DEFER_TASKRUN
        _PARAMS.pack_into(params, 0, 0, 0, flags, *[0] * 27)
        held = (ctypes.c_char * len(params)).from_buffer(params)
        self._fd = _call("set up", _NR_SETUP, entries, ctypes.addressof(held))
        try:
            self._map(_PARAMS.unpack(params))
        except BaseException:
            os.close(self._fd)
            raise
        self._num_new = 0

    def _map(self, params: tuple[int, ...]) -> None:
        sq_entries, cq_entries, features = params[0], params[1], params[5]
        if not features & _FEAT_SINGLE_MMAP:
            raise StorageError("cannot use io_uring: Linux 6.1 or newer is needed")
        sq_tail, sq_mask, sq_array = params[11], params[12], params[16]
        cq_head, cq_tail, cq_mask, cqes = params[20], params[21], params[22], params[25]
        num_bytes = max(sq_array + 4 * sq_entries, cqes + _CQE.size * cq_entries)
        self._rings = mmap.mmap(self._fd, num_bytes, offset=_OFF_RINGS)
        self._sqes = mmap.mmap(self._fd, sq_entries * _SQE.size, offset=_OFF_SQES)
        self._words = memoryview(self._rings)[: num_bytes // 4 * 4].cast("I")
        self._sq_tail, self._cq_head, self._cq_tail = sq_tail // 4, cq_head // 4, cq_tail // 4
        self._sq_mask, self._cq_mask = self._words[sq_mask // 4], self._words[cq_mask // 4]
        self._cqes = cqes
        for place in range(sq_entries):
            self._words[sq_array // 4 + place] = place

    def register(self, buffers: list[tuple[int, int]]) -> None:
        """Pin (address, length) once, for reads with `buffer_index`; before `enable`."""
        iovecs = (ctypes.c_uint64 * (2 * len(buffers)))(
            *[part for pair in buffers for part in pair]
        )
        words = _NR_REGISTER, self._fd, _REGISTER_BUFFERS, ctypes.addressof(iovecs), len(buffers)
        _call("register buffers with", *words)

    def enable(self) -> None:
        """From here on the ring belongs to the calling thread."""
        _call("enable", _NR_REGISTER, self._fd, _REGISTER_ENABLE_RINGS, 0, 0)

    def push(
        self,
        fd: int,
        *,
        offset: int,
        address: int,
        length: int,
        tag: int,
        buffer_index: int | None = None,
    ) -> None:
        """Note a read; `enter` hands it over.  The caller keeps count of the free places, and
        the memory at `address` alive until `tag` has come back."""
        tail = self._words[self._sq_tail]
        place = (tail & self._sq_mask) * _SQE.size
        code = _OP_READ if buffer_index is None else _OP_READ_FIXED
        index = buffer_index or 0
        _SQE.pack_into(
            self._sqes, place, code, 0, 0, fd, offset, address, length, 0, tag, index, 0, 0, 0, 0
        )
        self._words[self._sq_tail] = (tail + 1) & 0xFFFFFFFF
        self._num_new += 1

    def enter(self, *, num_wanted: int) -> list[tuple[int, int]]:
        """Hand over what was pushed and wait for `num_wanted` completions: (tag, result) of all
        that there are; a result is a count of bytes or a negative errno."""
        taken = _call(
            "enter", _NR_ENTER, self._fd, self._num_new, num_wanted, _ENTER_GETEVENTS, 0, 0
        )
        self._num_new -= taken
        return self._reap()

    def _reap(self) -> list[tuple[int, int]]:
        head, tail = self._words[self._cq_head], self._words[self._cq_tail]
        found = []
        while head != tail:
            place = self._cqes + (head & self._cq_mask) * _CQE.size
            tag, result, _ = _CQE.unpack_from(self._rings, place)
            found.append((tag, result))
            head = (head + 1) & 0xFFFFFFFF
        self._words[self._cq_head] = head
        return found

    def close(self) -> None:
        self._words.release()
        self._rings.close()
        self._sqes.close()
        os.close(self._fd)


def _call(action: str, number: int, *arguments: int) -> int:
    """The system call's answer; a signal only makes it start again (nothing was taken then).
    A `StorageError` names what forbids it."""
    words = [ctypes.c_ulong(part) for part in arguments]
    while True:
        answer: int = _syscall()(number, *words)
        if answer >= 0:
            return answer
        code = ctypes.get_errno()
        if code != errno.EINTR:
            break
    said = os.strerror(code).lower()
    remedy = _REMEDIES.get(code, "use prefer='direct' instead")
    raise StorageError(f"cannot {action} an io_uring: {said}; {remedy}")


@functools.cache
def _syscall() -> Any:
    call = ctypes.CDLL(None, use_errno=True).syscall
    call.restype = ctypes.c_long
    return call
