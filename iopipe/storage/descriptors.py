"""Open files, a bounded number of them, shared by the threads of a store.

Stands between `storage.posix` and the operating system.  Invariant: a descriptor that
somebody reads from is open, and it is the file that has this path now.
"""

from __future__ import annotations

import errno
import os
import resource
import stat
import threading
from collections import OrderedDict
from typing import Literal, TypeAlias

from iopipe.errors import NotFoundError, StorageError
from iopipe.storage.alignment import NONE, Alignment, ask_alignment, no_direct_reads

Advise: TypeAlias = Literal["none", "random", "sequential", "willneed"]

ADVICE: dict[Advise, int | None] = {
    "none": None,
    "random": os.POSIX_FADV_RANDOM,
    "sequential": os.POSIX_FADV_SEQUENTIAL,
    "willneed": os.POSIX_FADV_WILLNEED,
}

_REMEDIES = {
    errno.EACCES: "give this user read permission on the file and its folders",
    errno.EPERM: "give this user read permission on the file and its folders",
    errno.EIO: "the device failed, see the kernel log",
    errno.ESTALE: "the network mount lost the file, mount it again",
    errno.ELOOP: "remove the loop of symbolic links",
}


def storage_error(action: str, path: str, error: OSError) -> StorageError:
    """The `StorageError` to raise from `error`; `action` is 'open' or 'read 5 bytes at 7 of'."""
    said = error.strerror or str(error)
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return NotFoundError(f"cannot {action} {path!r}: {said.lower()}; check the path")
    remedy = _REMEDIES.get(error.errno or 0, "check the path and its mount")
    if error.errno in (errno.EMFILE, errno.ENFILE):
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        remedy = f"raise `ulimit -n` (now {limit}) or lower max_open_files"
    return StorageError(f"cannot {action} {path!r}: {said.lower()}; {remedy}")


def check_regular(path: str, mode: int) -> None:
    """Refuse what has no byte ranges; `mode` is st_mode."""
    if not stat.S_ISREG(mode):
        kind = "a directory" if stat.S_ISDIR(mode) else "a pipe, socket or device"
        raise StorageError(f"cannot read {path!r}: it is {kind}; give the path of a regular file")


class OpenFile:
    """Owns one descriptor and closes it when the last reference to it goes.

    So the cache may forget a file while a thread reads from it: the thread's own
    reference keeps the descriptor until the read has ended.
    """

    __slots__ = ("alignment", "device", "fd", "inode", "memory_mask", "offset_mask")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.device = 0
        self.inode = 0
        self.set_alignment(NONE)

    def __del__(self) -> None:
        os.close(self.fd)

    def set_alignment(self, alignment: Alignment) -> None:
        """The masks cover the bits that must be 0; they are asked for every request."""
        self.alignment = alignment
        self.memory_mask, self.offset_mask = alignment.memory - 1, alignment.offset - 1

    def is_named(self, path: str) -> bool:
        """Whether `path` still names this file, and not one that was moved into its place.

        One os.stat: 0.8 us, the tenth part of a cached read of 100 KB.  An open inode's
        number is not given to another file.
        """
        try:
            found = os.stat(path)
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == (self.device, self.inode)

    def is_in_memory(self) -> bool:
        """Whether the filesystem is tmpfs or ramfs, by its line in /proc/self/mountinfo
        (proc_pid_mountinfo(5))."""
        number = f"{os.major(self.device)}:{os.minor(self.device)}"
        try:
            with open("/proc/self/mountinfo") as lines:
                mounts = [line.partition(" - ") for line in lines]
        except OSError:  # without /proc nothing is known of it
            return False
        kinds = {rest.split()[0] for mount, _, rest in mounts if mount.split()[2] == number}
        return bool(kinds) and kinds <= {"tmpfs", "ramfs"}


class Descriptors:
    """The `limit` most recently used files; thread-safe."""

    def __init__(self, *, limit: int, advise: Advise = "none", direct: bool = False) -> None:
        """With `direct` files are opened with O_DIRECT and know the alignment it demands."""
        self._limit = limit
        self._advice = ADVICE[advise]
        self._direct = direct
        self._files: OrderedDict[str, OpenFile] = OrderedDict()
        self._lock = threading.Lock()

    def peek(self, path: str) -> OpenFile | None:
        """The open file that `path` named when it was opened; None where none is open."""
        with self._lock:
            file = self._files.get(path)
            if file is not None:
                self._files.move_to_end(path)
            return file

    def get(self, path: str) -> OpenFile:
        """The file that `path` names now, opened if need be.

        Opening happens outside the lock: two threads may open one path at the same time,
        and the cache keeps the later one.
        """
        file = self.peek(path)
        if file is not None and not file.is_named(path):
            file = None
        if file is None:
            file = self._open(path)
            with self._lock:
                self._files[path] = file
                self._files.move_to_end(path)
                forgotten = self._trim()
            # Closed here, after the lock: the last close of a network file may block.
            del forgotten
        return file

    def clear(self) -> None:
        with self._lock:
            forgotten, self._files = self._files, OrderedDict()
        forgotten.clear()

    def _trim(self) -> list[OpenFile]:
        num_excess = len(self._files) - self._limit
        return [self._files.popitem(last=False)[1] for _ in range(num_excess)]

    def _open(self, path: str) -> OpenFile:
        # O_NONBLOCK: without it, opening a FIFO waits for a writer.  Regular files ignore it.
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (os.O_DIRECT if self._direct else 0)
        try:
            file = OpenFile(os.open(path, flags))
            found = os.fstat(file.fd)
            check_regular(path, found.st_mode)
            file.device, file.inode = found.st_dev, found.st_ino
            # What lies in memory has no blocks: there the flag changes nothing.
            if self._direct and not file.is_in_memory():
                file.set_alignment(ask_alignment(file.fd, path))
            if self._advice is not None:
                os.posix_fadvise(file.fd, 0, 0, self._advice)
        except StorageError:
            raise
        except OSError as error:
            if self._direct and error.errno == errno.EINVAL:
                raise _direct_error(path) from error
            raise storage_error("open", path, error) from error
        return file


def _direct_error(path: str) -> StorageError:
    """What EINVAL means for an open with O_DIRECT: folders and pipes are refused so as well."""
    try:
        check_regular(path, os.stat(path).st_mode)
    except StorageError as error:
        return error
    except OSError as error:
        return storage_error("open", path, error)
    return no_direct_reads(path)
