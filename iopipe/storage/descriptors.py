"""Open files of a store, shared by its threads.

Stands under the file backends.  Invariant: a descriptor is closed only when no read uses
it, and at most `max_open_files` idle ones are kept.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from iopipe.errors import NotFoundError, StorageError


@dataclass(slots=True, eq=False)
class OpenFile:
    """A descriptor, the identity of the file behind it, and how many reads use it."""

    descriptor: int
    identity: tuple[int, int]
    num_users: int = 0
    is_current: bool = True


class Descriptors:
    """Least-recently-used cache of open regular files; thread-safe."""

    def __init__(self, *, max_open_files: int, on_open: Callable[[int], None]) -> None:
        self._max_open_files = max_open_files
        self._on_open = on_open
        self._lock = threading.Lock()
        self._files: OrderedDict[str, OpenFile] = OrderedDict()

    @contextmanager
    def use(self, path: str) -> Iterator[int]:
        """A descriptor of the file that is at `path` now, for the time of the block.

        A file that was replaced since it was opened is opened anew: the check is one stat,
        about 1 us.
        """
        file = self._acquire(path)
        try:
            yield file.descriptor
        finally:
            self._release(file)

    def close(self) -> None:
        """Close all; those in use are closed by their last user."""
        with self._lock:
            files = [*self._files.values()]
            self._files.clear()
            for file in files:
                self._retire(file)

    def _acquire(self, path: str) -> OpenFile:
        identity = _identity(path)
        with self._lock:
            file = self._files.get(path)
            if file is not None and file.identity == identity:
                self._files.move_to_end(path)
                file.num_users += 1
                return file
        opened = OpenFile(open_regular(path), identity, num_users=1)
        self._on_open(opened.descriptor)
        with self._lock:
            replaced = self._files.pop(path, None)
            if replaced is not None:
                self._retire(replaced)
            self._files[path] = opened
            while len(self._files) > self._max_open_files:
                self._retire(self._files.popitem(last=False)[1])
        return opened

    def _release(self, file: OpenFile) -> None:
        with self._lock:
            file.num_users -= 1
            if not file.is_current and not file.num_users:
                os.close(file.descriptor)

    def _retire(self, file: OpenFile) -> None:
        file.is_current = False
        if not file.num_users:
            os.close(file.descriptor)


def open_regular(path: str) -> int:
    """A read-only descriptor of a regular file.

    Opened without blocking, so that a FIFO that nobody writes to is an error, not a hang.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise storage_error(error, path) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise StorageError(f"{path!r} is no regular file; give the path of a file")
    return descriptor


def storage_error(error: OSError, path: str, offset: int | None = None) -> StorageError:
    """An operating system's error as ours, with what to do about it."""
    remedies = {
        errno.EACCES: "give this user the right to read it",
        errno.EMFILE: "raise the limit of open files (ulimit -n) or lower max_open_files",
        errno.ENFILE: "the whole system is out of file handles; close some",
        errno.EISDIR: "give the path of a file, not of a folder",
        errno.EIO: "the device failed; look into the kernel log",
    }
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return NotFoundError(error.errno, "no such file; check the path", path)
    remedy = remedies.get(error.errno or 0, "check the path and the file system")
    place = "" if offset is None else f" at offset {offset}"
    message = f"{os.strerror(error.errno or 0).lower()}{place}; {remedy}"
    return StorageError(error.errno, message, path)


def _identity(path: str) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except OSError as error:
        raise storage_error(error, path) from error
    return status.st_dev, status.st_ino
