"""Local files into GPU memory, through kvikio.

Stands where `storage.posix` stands, which serves the host's buffers.  Invariant: the way of the
bytes is the one that `describe` names; it is called gpudirect only where `gds_probe` proved it.
"""

from __future__ import annotations

import math
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

from iopipe.errors import MissingDependency, PipelineError, StorageError
from iopipe.protocols import ReadRequest, Reads
from iopipe.storage.descriptors import check_regular, storage_error
from iopipe.storage.device import DeviceBuffer, DeviceRead
from iopipe.storage.gds_probe import GdsPath, probe
from iopipe.storage.posix import PosixStore, plain_path


class GdsStore:
    """A `Store` whose `submit_to_device` reads into GPU memory with kvikio's threads.

    `submit` and `read_into` fill host memory and are those of `PosixStore`, which equals kvikio
    there and does not need a GPU.  kvikio's settings (threads, task size, compat mode) belong
    to the process: the store made last decides.  A process that has used kvikio must not fork.
    """

    def __init__(
        self,
        url: str,
        *,
        require: Literal["gpudirect"] | None = None,
        num_threads: int = 16,
        task_bytes: int = 16 << 20,
        max_open_files: int = 256,
        ask: Callable[[str], GdsPath] = probe,
    ) -> None:
        """`url` is a file of the filesystem to be read: `ask` finds out by it which way the
        bytes take.

        `StorageError` where they cannot come to a GPU at all, or where `require` demands what
        is not; `MissingDependency` without kvikio.
        """
        if num_threads < 1 or task_bytes < 1 or max_open_files < 1:
            raise PipelineError(
                f"num_threads={num_threads}, task_bytes={task_bytes} and "
                f"max_open_files={max_open_files} must be 1 or more"
            )
        self._kvikio = _kvikio()
        self.path = ask(plain_path(url))
        if self.path.kind == "unavailable":
            raise StorageError(f"cannot read {url!r} into GPU memory: {self.path}")
        if require == "gpudirect" and self.path.kind != "gpudirect":
            raise StorageError(
                f"require='gpudirect', and for {url!r} the path is {self.path}; "
                "remove the obstacle, or leave require out"
            )
        modes = self._kvikio.CompatMode
        # OFF where it is proven: a read that cannot go directly then fails and does not detour.
        mode = modes.OFF if self.path.kind == "gpudirect" else modes.ON
        self._kvikio.defaults.set(
            {"compat_mode": mode, "num_threads": num_threads, "task_size": task_bytes}
        )
        self._settings = {
            "require": require,
            "num_threads": num_threads,
            "task_bytes": task_bytes,
            "max_open_files": max_open_files,
            "ask": ask,
        }
        self._url = url
        self._max_open_files = max_open_files
        self._host = PosixStore()
        self._files: OrderedDict[str, tuple[tuple[int, int], Any]] = OrderedDict()
        self._lock = threading.Lock()
        self._process_id = os.getpid()
        self._closed = False

    def __reduce__(self) -> tuple[Callable[..., GdsStore], tuple[str, dict[str, Any]]]:
        return _from_settings, (self._url, self._settings)

    def size(self, path: str) -> int:
        return self._host.size(path)

    def version(self, path: str) -> str:
        return self._host.version(path)

    def glob(self, pattern: str) -> list[str]:
        return self._host.glob(pattern)

    def local_path(self, path: str) -> str:
        return self._host.local_path(path)

    def view(self, path: str) -> None:
        return None

    def read_into(self, path: str, offset: int, buffer: memoryview) -> int:
        return self._host.read_into(path, offset, buffer)

    def submit(self, requests: Sequence[ReadRequest]) -> Reads:
        return self._host.submit(requests)

    def submit_to_device(self, requests: Sequence[DeviceRead]) -> Reads:
        """Start reads into GPU memory; kvikio cuts each into tasks of `task_bytes`.

        Lengths are cut at the end of the file as it is now: kvikio fails beyond it.
        """
        self._check_usable()
        reads = _DeviceReads(len(requests))
        for index, request in enumerate(requests):
            try:
                reads.futures[index] = self._start(request)
            except StorageError as error:
                reads.errors[index] = error
        return reads

    def drop_page_cache(self, path: str) -> None:
        """Ask the kernel to forget the cached pages of `path`, for measurements of a cold one."""
        self._kvikio.drop_file_page_cache(plain_path(path))

    def describe(self) -> str:
        return f"gds: kvikio, {self.path}, {self._settings['num_threads']} threads"

    def close(self) -> None:
        """Forget the files, each closed when its last read has ended; idempotent."""
        if os.getpid() != self._process_id:
            return
        self._closed = True
        with self._lock:
            self._files.clear()
        self._host.close()

    def _check_usable(self) -> None:
        if os.getpid() != self._process_id:
            raise StorageError(
                f"this store was opened in process {self._process_id}, and kvikio does not "
                "survive a fork; start workers with spawn"
            )
        if self._closed:
            raise StorageError("this store is closed; open a new one")

    def _start(self, request: DeviceRead) -> _Future:
        path, offset = request.path, request.offset
        if offset < 0:
            raise StorageError(f"cannot read {path!r} at offset {offset}: give 0 or more")
        asked = _num_bytes(request.buffer)
        file = self._file(path)
        size: int = min(asked, max(0, os.fstat(file.fileno()).st_size - offset))
        if size == 0:
            return _Future(None, None, request)
        try:
            return _Future(file, file.pread(request.buffer, size, offset), request)
        except RuntimeError as error:
            raise _failed(request, error) from error

    def _file(self, path: str) -> Any:
        local = plain_path(path)
        try:
            found = os.stat(local)
        except OSError as error:
            raise storage_error("find", path, error) from error
        check_regular(path, found.st_mode)
        identity = (found.st_dev, found.st_ino)
        with self._lock:
            kept = self._files.get(local)
            if kept is None or kept[0] != identity:
                kept = self._files[local] = (identity, self._open(local, path))
            self._files.move_to_end(local)
            while len(self._files) > self._max_open_files:
                self._files.popitem(last=False)
        return kept[1]

    def _open(self, local: str, path: str) -> Any:
        try:
            return self._kvikio.CuFile(local, "r")
        except (OSError, RuntimeError) as error:
            raise StorageError(f"cannot open {path!r} with kvikio: {error}") from error


@dataclass(frozen=True, slots=True)
class _Future:
    """One read; holds its file open and its buffer alive."""

    file: Any
    future: Any
    request: DeviceRead

    def get(self) -> int:
        if self.future is None:
            return 0
        try:
            return int(self.future.get())
        except RuntimeError as error:
            raise _failed(self.request, error) from error


class _DeviceReads:
    """`Reads` over kvikio's futures."""

    def __init__(self, num_requests: int) -> None:
        self.futures: list[_Future | None] = [None] * num_requests
        self.errors: dict[int, StorageError] = {}

    def wait(self) -> list[int]:
        counts = [0] * len(self.futures)
        for index, future in enumerate(self.futures):
            try:
                counts[index] = future.get() if future is not None else 0
            except StorageError as error:
                self.errors[index] = error
        if self.errors:
            raise self.errors[min(self.errors)]
        return counts


def _num_bytes(buffer: DeviceBuffer) -> int:
    """Of writable contiguous memory; the rest is refused, for kvikio would write into it.

    Source of the fields: CUDA array interface, version 3 (Numba's documentation).
    """
    about = buffer.__cuda_array_interface__
    if about["data"][1]:
        raise StorageError("the buffer is read-only; give one that may be written to")
    if about.get("strides") is not None:
        raise StorageError("the buffer has strides; give contiguous memory")
    item_bytes = int(about["typestr"][2:])
    num_items: int = math.prod(about["shape"])
    return num_items * item_bytes


def _failed(request: DeviceRead, error: RuntimeError) -> StorageError:
    return StorageError(
        f"cannot read {request.path!r} at offset {request.offset} into GPU memory: {error}; "
        "ask `iopipe.storage.gds_probe.probe` which path there is"
    )


def _kvikio() -> Any:
    try:
        kvikio = import_module("kvikio")
        import_module("kvikio.defaults")
    except ImportError as error:
        raise MissingDependency(
            "iopipe.storage.gds needs kvikio: pip install 'iopipe[gds]'"
        ) from error
    return kvikio


def _from_settings(url: str, settings: dict[str, Any]) -> GdsStore:
    return GdsStore(url, **settings)
