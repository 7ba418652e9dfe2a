"""Objects of any file system that fsspec knows: S3, GCS, Azure, HTTP and others.

Stands where `storage.posix` stands, for URLs.  Invariant: a read returns the bytes asked for or
says where the object ended; errors of the file system become `StorageError`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from iopipe.errors import MissingDependency, NotFoundError, PipelineError, StorageError
from iopipe.protocols import ReadRequest, Reads
from iopipe.storage.answers import cleaned, said, shown
from iopipe.storage.coalesce import SplitReads, check_task_bytes, split_requests
from iopipe.storage.threads import ReadThreads, SharedReads


class RemoteStore:
    """A `Store` over one fsspec file system; paths are its URLs.

    Ranges longer than `part_bytes` are cut; every part is one range request, `num_threads` of
    them at a time.
    Credentials are those that the file system finds by itself; they appear in no message.
    """

    def __init__(self, url: str, *, num_threads: int = 16, part_bytes: int = 8 << 20) -> None:
        """`url` is any of the file system's; it decides which one that is."""
        check_task_bytes(part_bytes, name="part_bytes")
        if num_threads < 1:
            raise PipelineError(f"num_threads={num_threads} must be 1 or more")
        self._url = url
        self._num_threads = num_threads
        self._part_bytes = part_bytes
        self._scheme = url.partition("://")[0]
        self._files = _file_system(url)
        self._sizes: dict[str, int] = {}
        """As last asked for: an object store's objects do not grow, and a request for their
        size costs as much as one for their bytes."""
        self._threads = ReadThreads(num_threads, name="iopipe-remote")

    def __reduce__(self) -> tuple[Callable[..., RemoteStore], tuple[str, int, int]]:
        return _from_settings, (self._url, self._num_threads, self._part_bytes)

    def size(self, path: str) -> int:
        self._threads.check_usable()
        return self._size(path)

    def version(self, path: str) -> str:
        """The ETag where there is one, else size and time of the last change."""
        self._threads.check_usable()
        found = self._object(path)
        tag = found.get("ETag") or found.get("etag")
        changed = found.get("LastModified") or found.get("mtime") or found.get("updated")
        return str(tag) if tag else f"{found['size']}-{changed}"

    def _size(self, path: str) -> int:
        self._sizes[path] = int(self._object(path)["size"])
        return self._sizes[path]

    def _object(self, path: str) -> dict[str, Any]:
        with _mapped("find", path):
            found: dict[str, Any] = self._files.info(path)
        if found.get("type") == "other":
            raise StorageError(f"cannot read {shown(path)}: it is a pipe, socket or device")
        if found.get("type") == "directory" or found.get("size") is None:
            raise StorageError(
                f"cannot read {shown(path)}: it is a folder; give the path of an object"
            )
        return found

    def glob(self, pattern: str) -> list[str]:
        self._threads.check_usable()
        with _mapped("list", pattern):
            found = self._files.glob(pattern, detail=True)
        return sorted(
            self._files.unstrip_protocol(path)
            for path, about in found.items()
            if about.get("type") != "directory"
        )

    def local_path(self, path: str) -> None:
        return None

    def view(self, path: str) -> None:
        return None

    def read_into(self, path: str, offset: int, buffer: memoryview) -> int:
        self._threads.check_usable()
        return self._read(ReadRequest(path, offset, buffer))

    def _read(self, request: ReadRequest) -> int:
        path, offset, buffer = request.path, request.offset, request.buffer
        if offset < 0:
            raise StorageError(f"cannot read {shown(path)} at offset {offset}: give 0 or more")
        size = self._sizes.get(path)
        end = min(offset + len(buffer), self._size(path) if size is None else size)
        if offset >= end:
            return 0
        wanted = end - offset
        with _mapped(f"read {wanted} bytes at offset {offset} of", path):
            content = self._files.cat_file(path, start=offset, end=end)
        if len(content) > wanted:  # from which place they are nobody knows
            raise StorageError(
                f"cannot read {wanted} bytes at offset {offset} of {shown(path)}: "
                f"{len(content)} came, so its server does not serve ranges; copy it elsewhere"
            )
        buffer[: len(content)] = content
        return len(content)

    def submit(self, requests: Sequence[ReadRequest]) -> Reads:
        self._threads.check_usable()
        split = split_requests(requests, task_bytes=self._part_bytes)
        tasks = requests if split is None else split.requests
        reads = SharedReads(len(tasks))
        self._threads.start(tasks, deque(range(len(tasks))), reads, self._read)
        return reads if split is None else SplitReads(reads, split)

    def describe(self) -> str:
        return f"remote: {self._scheme} through fsspec, {self._num_threads} threads"

    def close(self) -> None:
        """Wait for the reads under way and end the threads; idempotent."""
        if not self._threads.is_forked():
            self._threads.close()


def _file_system(url: str) -> Any:
    import fsspec

    try:
        files, _ = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise MissingDependency(f"no file system for {shown(url)}: {said(error)}") from error
    except ValueError as error:
        raise StorageError(f"no store for {shown(url)}: {said(error)}") from cleaned(error)
    return files


@contextmanager
def _mapped(action: str, path: str) -> Iterator[None]:
    """What file systems raise is as different as they are: nothing of it gets through bare."""
    try:
        yield
    except FileNotFoundError as error:
        raise NotFoundError(f"cannot {action} {shown(path)}: there is no such object") from cleaned(
            error
        )
    except Exception as error:
        raise StorageError(
            f"cannot {action} {shown(path)}: {type(error).__name__}: {said(error)}"
        ) from cleaned(error)


def _from_settings(url: str, num_threads: int, part_bytes: int) -> RemoteStore:
    return RemoteStore(url, num_threads=num_threads, part_bytes=part_bytes)
