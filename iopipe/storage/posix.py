"""Files of the operating system: local disks and whatever is mounted.

First in the flow: `readers` ask it for byte ranges.  Invariant: a request's bytes are those
that the file of this path held during the call; nothing is kept but open descriptors.
"""

from __future__ import annotations

import errno
import fnmatch
import glob
import logging
import os
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import unquote

from iopipe.errors import PipelineError, StorageError
from iopipe.protocols import ReadRequest, Reads
from iopipe.storage.coalesce import SplitReads, check_task_bytes, split_requests
from iopipe.storage.descriptors import (
    ADVICE,
    Advise,
    Descriptors,
    OpenFile,
    check_regular,
    storage_error,
)
from iopipe.storage.threads import ReadThreads, SharedReads

_log = logging.getLogger(__name__)

# Cached reads, 64 a submission (of large ones 16 or 4), medians of three runs of 40 or more
# rounds, 2 shared cores, Linux 6.18, ext4.  100 KB: 8.7 to 9.7 us inline (0.2 to 0.4 above a
# bare preadv loop), 17 us through 8 threads; from 64 different files 10 us and 16 to 22 us.
# 4 KB: 0.9 us and 7 to 9 us.  At 1 and 4 MiB no difference beyond the noise; 16 MiB: 2.8 to
# 3.3 ms in one thread, 2.0 to 2.6 ms in 8.
_INLINE_LIMIT_BYTES = 1 << 20


class PosixStore:
    """A `Store` over `preadv`.  Paths are plain or `file:///absolute/path` URLs (RFC 8089).

    `submit` copies what lies in the page cache at once, in the calling thread, and gives
    only the rest to `num_threads` threads, which start with the first such read.  Requests
    above 1 MiB always go to the threads, which share the copying of large ranges.

    A pickled store travels as its settings: descriptors and threads stay behind.  A store
    does not survive a fork, since its locks and threads do not: the child gets a
    `StorageError` and must open its own.
    """

    def __init__(
        self,
        *,
        num_threads: int = 8,
        advise: Advise = "none",
        max_open_files: int = 256,
        task_bytes: int = 8 << 20,
    ) -> None:
        """`advise` is what each file is opened with, see posix_fadvise(2); several threads
        share the requests of `submit` that are longer than `task_bytes`.

        Files being read from count in `max_open_files` only while they are the latest used.
        """
        if advise not in ADVICE:
            raise PipelineError(f"advise is {advise!r}: give one of {', '.join(ADVICE)}")
        if num_threads < 1 or max_open_files < 1:
            raise PipelineError(
                f"num_threads={num_threads} and max_open_files={max_open_files} must be 1 or more"
            )
        check_task_bytes(task_bytes)
        self._task_bytes = task_bytes
        self._settings = {
            "num_threads": num_threads,
            "task_bytes": task_bytes,
            "advise": advise,
            "max_open_files": max_open_files,
        }
        self._files = Descriptors(limit=max_open_files, advise=advise)
        self._threads = ReadThreads(num_threads, name="iopipe-posix")
        self._without_nowait: set[int] = set()
        """Devices whose filesystem refuses RWF_NOWAIT and may wait for a disk."""
        self._in_memory: set[int] = set()
        """Those that refuse it and have none: a thread would only share the copying."""

    def __reduce__(self) -> tuple[Callable[..., PosixStore], tuple[dict[str, Any]]]:
        return _from_settings, (self._settings,)

    def size(self, path: str) -> int:
        return self._stat(path).st_size

    def version(self, path: str) -> str:
        found = self._stat(path)
        return f"{found.st_size}-{found.st_mtime_ns}"

    def glob(self, pattern: str) -> list[str]:
        """Plain paths of files, never of folders; `**` goes down any number of folders."""
        path = plain_path(pattern)
        folder, name = os.path.split(path)
        if glob.has_magic(name) and not glob.has_magic(folder) and "**" not in name:
            return _files_of(folder, name)
        found = glob.iglob(path, recursive=True)
        return sorted({path for path in found if os.path.isfile(path)})

    def local_path(self, path: str) -> str:
        return plain_path(path)

    def read_into(self, path: str, offset: int, buffer: memoryview) -> int:
        self._threads.check_usable()
        return self._read(path, offset, buffer)

    def view(self, path: str) -> None:
        return None

    def submit(self, requests: Sequence[ReadRequest]) -> Reads:
        self._threads.check_usable()
        split = split_requests(requests, task_bytes=self._task_bytes)
        if split is None:
            return self._submit(requests)
        return SplitReads(self._submit(split.requests), split)

    def _submit(self, requests: Sequence[ReadRequest]) -> Reads:
        reads = SharedReads(len(requests))
        missing = self._copy_cached(requests, reads.num_bytes)
        if missing:
            self._threads.start(requests, missing, reads, self._read_request)
        return reads

    def describe(self) -> str:
        slow = len(self._without_nowait)
        note = f", {slow} filesystems without RWF_NOWAIT" if slow else ""
        return f"posix: preadv, page cache inline, {self._threads.num_threads} threads{note}"

    def close(self) -> None:
        """Wait for the reads under way, end the threads, close the files; idempotent."""
        if not self._threads.is_forked():
            self._threads.close()
            self._files.clear()

    def _stat(self, path: str) -> os.stat_result:
        try:
            found = os.stat(plain_path(path))
        except OSError as error:
            raise storage_error("find", path, error) from error
        check_regular(path, found.st_mode)
        return found

    def _copy_cached(self, requests: Sequence[ReadRequest], num_bytes: list[int]) -> deque[int]:
        """Copy what needs no waiting for the device; the indices of the requests that are left.

        A short count may also be the end of the file, which only a plain read proves (Linux
        5.9 and 5.10 may return 0 before it, see preadv2(2)).  That read starts from the
        beginning: by then the path may name another file.

        The caller never opens a file, which may wait for a disk or a server: a file that is
        not open yet is one for the threads.  Each file is looked up once a submission.  All in
        one loop: a call for each request would cost a tenth of a read of 4 KB.
        """
        missing: deque[int] = deque()
        files: dict[str, OpenFile | None] = {}
        latest: str | None = None
        file: OpenFile | None = None
        flags, preadv = 0, os.preadv
        for index, request in enumerate(requests):
            path, offset, buffer = request.path, request.offset, request.buffer
            if path != latest:
                if path not in files:
                    files[path] = self._file_for_inline_reads(plain_path(path))
                latest, file = path, files[path]
                in_memory = file is not None and file.device in self._in_memory
                flags = 0 if in_memory else os.RWF_NOWAIT
            length = len(buffer)
            if file is None or length > _INLINE_LIMIT_BYTES or offset < 0:
                missing.append(index)
                continue
            try:
                count = preadv(file.fd, (buffer,), offset, flags)
            except OSError as error:
                # EAGAIN: not in the cache.  Any other error comes again, and is reported, when
                # a thread reads the request without the flag.
                missing.append(index)
                if error.errno == errno.EOPNOTSUPP:
                    self._forgo_nowait(file, path)
                    files.clear()
                    latest = None
                continue
            num_bytes[index] = count
            if count < length:
                missing.append(index)
        return missing

    def _file_for_inline_reads(self, path: str) -> OpenFile | None:
        file = self._files.peek(path)
        if file is None or file.device in self._without_nowait or not file.is_named(path):
            return None
        return file

    def _forgo_nowait(self, file: OpenFile, path: str) -> None:
        if file.is_in_memory():
            self._in_memory.add(file.device)
            return
        self._without_nowait.add(file.device)
        _log.info("filesystem of %r has no RWF_NOWAIT: cached reads go through threads", path)

    def _read_request(self, request: ReadRequest) -> int:
        return self._read(request.path, request.offset, request.buffer)

    def _read(self, path: str, offset: int, buffer: memoryview) -> int:
        """Block until `buffer` is full or the file ends; preadv itself starts again after a
        signal (PEP 475)."""
        if offset < 0:  # preadv2(2) would take -1 for "where the descriptor stands"
            raise StorageError(f"cannot read {path!r} at offset {offset}: give 0 or more")
        file = self._files.get(plain_path(path))
        try:
            num_done = os.preadv(file.fd, (buffer,), offset)
            num_bytes = num_done
            while num_bytes and num_done < len(buffer):
                num_bytes = os.preadv(file.fd, (buffer[num_done:],), offset + num_done)
                num_done += num_bytes
        except OSError as error:
            action = f"read {len(buffer)} bytes at offset {offset} of"
            raise storage_error(action, path, error) from error
        return num_done


def plain_path(path: str) -> str:
    """`path` as the operating system takes it; `file://` URLs are unquoted."""
    if not path.startswith("file://"):
        return path
    host, slash, rest = path.removeprefix("file://").partition("/")
    if host not in ("", "localhost") or not slash:
        raise StorageError(f"{path!r} names another host; write file:///absolute/path")
    return unquote("/" + rest)


def _from_settings(settings: dict[str, Any]) -> PosixStore:
    return PosixStore(**settings)


def _files_of(folder: str, pattern: str) -> list[str]:
    """What `glob` finds in one folder, by the kinds that its listing tells: a status for each of
    many files takes longer than all else."""
    try:
        with os.scandir(folder or os.curdir) as entries:
            files = [entry.name for entry in entries if _is_file(entry)]
    except OSError:
        return []
    if not pattern.startswith("."):
        files = [name for name in files if not name.startswith(".")]
    return sorted(os.path.join(folder, name) for name in fnmatch.filter(files, pattern))


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # a link in a circle, or into what may not be seen: one of many names
        return False
