"""Local files through pread: what the page cache holds at once, the rest by threads.

A backend of `Store`.  Invariant: a read that the page cache can serve never leaves the
calling thread; only a read that would block occupies a thread of the pool.
"""

from __future__ import annotations

import errno
import glob
import os
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Literal, TypeAlias
from urllib.parse import unquote, urlsplit

from iopipe.errors import PipelineError
from iopipe.protocols import ReadRequest, Reads
from iopipe.storage.descriptors import Descriptors, storage_error

Advice: TypeAlias = Literal["none", "random", "sequential", "willneed"]

_ADVICE = {
    "random": os.POSIX_FADV_RANDOM,
    "sequential": os.POSIX_FADV_SEQUENTIAL,
    "willneed": os.POSIX_FADV_WILLNEED,
}
_CANNOT_TRY = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)


class PosixStore:
    """Reads local files; paths are plain or `file://` URLs.

    Pickled by its settings: the copy opens files and threads of its own.  After a fork the
    child must make its own store, as with any object that owns threads.
    """

    def __init__(
        self, *, num_threads: int = 8, advise: Advice = "none", max_open_files: int = 256
    ) -> None:
        if num_threads < 1 or max_open_files < 1:
            raise PipelineError(
                f"num_threads is {num_threads}, max_open_files {max_open_files}; both must be >= 1"
            )
        if advise != "none" and advise not in _ADVICE:
            raise PipelineError(f"advise is {advise!r}; use one of none, {', '.join(_ADVICE)}")
        self._settings: dict[str, Any] = {
            "num_threads": num_threads,
            "advise": advise,
            "max_open_files": max_open_files,
        }
        self._files = Descriptors(max_open_files=max_open_files, on_open=self._advise)
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._can_try = True

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (self._settings,)

    def size(self, path: str) -> int:
        return self._stat(path).st_size

    def version(self, path: str) -> str:
        status = self._stat(path)
        return f"{status.st_size}-{status.st_mtime_ns}"

    def glob(self, pattern: str) -> list[str]:
        return sorted(glob.glob(local_path(pattern), recursive=True))

    def local_path(self, path: str) -> str | None:
        return local_path(path)

    def read_into(self, path: str, offset: int, buffer: memoryview) -> int:
        name = local_path(path)
        with self._files.use(name) as descriptor:
            return _read_fully(descriptor, name, offset, buffer)

    def submit(self, requests: Sequence[ReadRequest]) -> Reads:
        """Cached bytes are copied before this returns, the others are under way.

        A future costs 15 to 30 us here, as much as copying 100 KB from the page cache, so
        only reads that would block get one (RWF_NOWAIT, Linux 4.14).
        """
        return _Reads([self._start(request) for request in requests])

    def describe(self) -> str:
        settings = self._settings
        return f"posix: pread, {settings['num_threads']} threads, advice {settings['advise']}"

    def close(self) -> None:
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=True, cancel_futures=True)
        self._files.close()

    def _start(self, request: ReadRequest) -> int | Future[int]:
        done = self._try_cached(request) if self._can_try else 0
        if done == len(request.buffer):
            return done
        return self._threads().submit(self._finish, request, done)

    def _try_cached(self, request: ReadRequest) -> int:
        """How many bytes the page cache had."""
        name = local_path(request.path)
        with self._files.use(name) as descriptor:
            try:
                return os.preadv(descriptor, [request.buffer], request.offset, os.RWF_NOWAIT)
            except BlockingIOError:
                return 0
            except OSError as error:
                if error.errno in _CANNOT_TRY:
                    self._can_try = False
                    return 0
                raise storage_error(error, name, request.offset) from error

    def _finish(self, request: ReadRequest, done: int) -> int:
        rest = request.buffer[done:]
        return done + self.read_into(request.path, request.offset + done, rest)

    def _threads(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(
                    self._settings["num_threads"], thread_name_prefix="iopipe-pread"
                )
            return self._pool

    def _advise(self, descriptor: int) -> None:
        advice = self._settings["advise"]
        if advice != "none":
            os.posix_fadvise(descriptor, 0, 0, _ADVICE[advice])

    def _stat(self, path: str) -> os.stat_result:
        name = local_path(path)
        try:
            return os.stat(name)
        except OSError as error:
            raise storage_error(error, name) from error


class _Reads:
    def __init__(self, parts: list[int | Future[int]]) -> None:
        self._parts = parts

    def wait(self) -> list[int]:
        for part in self._parts:
            if isinstance(part, Future):
                part.exception()  # all end before the first error is raised
        return [part.result() if isinstance(part, Future) else part for part in self._parts]


def local_path(path: str) -> str:
    """The file that a plain path or a `file://` URL names."""
    if not path.startswith("file://"):
        return path
    return unquote(urlsplit(path).path)


def _restored(settings: dict[str, Any]) -> PosixStore:
    return PosixStore(**settings)


def _read_fully(descriptor: int, path: str, offset: int, buffer: memoryview) -> int:
    done = 0
    while done < len(buffer):
        try:
            num_bytes = os.preadv(descriptor, [buffer[done:]], offset + done)
        except OSError as error:
            raise storage_error(error, path, offset + done) from error
        if num_bytes == 0:
            break
        done += num_bytes
    return done
