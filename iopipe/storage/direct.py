"""Local files read round the page cache, with O_DIRECT.

Stands where `storage.posix` stands, which still finds and lists the files.  Invariant: every byte
comes from the device and from nowhere else; a file that cannot be read so is an error.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import queue
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from iopipe.errors import PipelineError, StorageError
from iopipe.protocols import ReadRequest, Reads
from iopipe.storage.alignment import Piece, address_of, pieces
from iopipe.storage.coalesce import SplitReads, check_task_bytes, split_requests
from iopipe.storage.descriptors import Descriptors, OpenFile, storage_error
from iopipe.storage.posix import PosixStore, plain_path
from iopipe.storage.threads import ReadOne, ReadThreads, SharedReads


class DirectStore:
    """A `Store` over `preadv` with O_DIRECT: for data that is larger than the memory, or read
    once, and for devices that are faster than the copy out of the page cache.

    Whole blocks whose address in the caller's buffer suits the device (for most 512 or 4096
    bytes, see `ask_alignment`) are read in place; what is left goes through `num_threads`
    bounce buffers of `bounce_bytes`, made once.  Where the file ends inside a block that is
    read in place, the buffer holds zeros behind the bytes that are counted.
    As with `PosixStore`, a pickled store travels as its settings, and a forked child must
    open its own.
    """

    def __init__(
        self,
        *,
        num_threads: int = 8,
        bounce_bytes: int = 1 << 20,
        max_open_files: int = 256,
        task_bytes: int = 8 << 20,
    ) -> None:
        """`num_threads` reads are under way at a time; with 0 the thread that waits for a
        submission reads it, one request after the other.  Several threads share the requests
        of `submit` that are longer than `task_bytes`."""
        if num_threads < 0 or max_open_files < 1:
            raise PipelineError(
                f"num_threads={num_threads} must be 0 or more, max_open_files={max_open_files} 1"
            )
        if bounce_bytes < mmap.PAGESIZE or bounce_bytes % mmap.PAGESIZE:
            raise PipelineError(
                f"bounce_bytes={bounce_bytes}: give a multiple of the page, {mmap.PAGESIZE}"
            )
        check_task_bytes(task_bytes)
        self._task_bytes = task_bytes
        self._settings = {
            "num_threads": num_threads,
            "task_bytes": task_bytes,
            "bounce_bytes": bounce_bytes,
            "max_open_files": max_open_files,
        }
        self._names = PosixStore()
        self._files = Descriptors(limit=max_open_files, direct=True)
        self._threads = ReadThreads(num_threads, name="iopipe-direct")
        self._bounce_bytes = bounce_bytes
        self._free: queue.SimpleQueue[memoryview] = queue.SimpleQueue()
        """Bounce buffers, page-aligned; whoever takes one puts it back."""
        room = memoryview(mmap.mmap(-1, max(1, num_threads) * bounce_bytes))
        for start in range(0, len(room), bounce_bytes):
            self._free.put(room[start : start + bounce_bytes])

    def __reduce__(self) -> tuple[Callable[..., DirectStore], tuple[dict[str, Any]]]:
        return _from_settings, (self._settings,)

    def size(self, path: str) -> int:
        return self._names.size(path)

    def version(self, path: str) -> str:
        return self._names.version(path)

    def glob(self, pattern: str) -> list[str]:
        return self._names.glob(pattern)

    def local_path(self, path: str) -> str:
        return self._names.local_path(path)

    def view(self, path: str) -> None:
        return None

    def read_into(self, path: str, offset: int, buffer: memoryview) -> int:
        self._threads.check_usable()
        return self._reader()(ReadRequest(path, offset, buffer))

    def submit(self, requests: Sequence[ReadRequest]) -> Reads:
        self._threads.check_usable()
        if self._threads.num_threads <= 1:  # nobody to share with
            return self._submit(requests)
        split = split_requests(requests, task_bytes=self._task_bytes)
        if split is None:
            return self._submit(requests)
        return SplitReads(self._submit(split.requests), split)

    def _submit(self, requests: Sequence[ReadRequest]) -> Reads:
        reads = SharedReads(len(requests))
        if not requests:
            return reads
        left = deque(range(len(requests)))
        if self._threads.num_threads == 0:
            reads.here = lambda: self._read_here(requests, left, reads)
        else:
            self._threads.start(requests, left, reads, self._reader())
        return reads

    def _reader(self) -> ReadOne:
        """The function that serves the requests of a submission: it looks a file up where the
        request before was for another, and lets the common request, which needs no cutting,
        pay for nothing else."""
        latest: tuple[str, OpenFile] | None = None
        preadv, address, first_byte = os.preadv, ctypes.addressof, ctypes.c_char.from_buffer

        def read(request: ReadRequest) -> int:
            nonlocal latest
            path, offset, buffer = request.path, request.offset, request.buffer
            known = latest  # one look: other threads change it
            if known is None or known[0] != path:
                known = latest = (path, self._file(path))
            file = known[1]
            length = len(buffer)
            if (
                length
                and offset >= 0
                and not (offset | length) & file.offset_mask
                and not address(first_byte(buffer)) & file.memory_mask
            ):
                try:
                    if preadv(file.fd, (buffer,), offset) == length:
                        return length
                except OSError:
                    # The longer way meets it again and says what failed.
                    return self._read(file, request)
            return self._read(file, request)

        return read

    def _read_here(
        self, requests: Sequence[ReadRequest], left: deque[int], reads: SharedReads
    ) -> None:
        """Serve the requests at the indices in `left` in this thread, one after the other; once,
        however often it is waited for.

        As `_reader` has it, but in one loop: a call for each request would cost a tenth of a
        read of 4 KB.
        """
        if left:
            self._threads.check_usable()
        places, num_bytes = list(left), reads.num_bytes
        left.clear()
        latest: str | None = None
        preadv, address, first_byte = os.preadv, ctypes.addressof, ctypes.c_char.from_buffer
        for place in places:
            request = requests[place]
            path, offset, buffer = request.path, request.offset, request.buffer
            length = len(buffer)
            try:
                if path != latest:
                    file = self._file(path)
                    latest, descriptor = path, file.fd
                    offset_mask, memory_mask = file.offset_mask, file.memory_mask
                if (
                    length
                    and offset >= 0
                    and not (offset | length) & offset_mask
                    and not (memory_mask and address(first_byte(buffer)) & memory_mask)
                ):
                    try:
                        if preadv(descriptor, (buffer,), offset) == length:
                            num_bytes[place] = length
                            continue
                    except OSError:  # the longer way meets it again and says what failed
                        pass
                num_bytes[place] = self._read(file, request)
            except StorageError as error:
                reads.errors[place] = error

    def describe(self) -> str:
        return f"direct: preadv with O_DIRECT, {self._threads.num_threads} threads"

    def close(self) -> None:
        """Wait for the reads under way, end the threads, close the files; idempotent."""
        if not self._threads.is_forked():
            self._threads.close()
            self._files.clear()
            self._names.close()

    def _file(self, path: str) -> OpenFile:
        file = self._files.get(plain_path(path))
        file.alignment.check_fits(self._bounce_bytes, path)
        return file

    def _read(self, file: OpenFile, request: ReadRequest) -> int:
        offset, buffer = request.offset, request.buffer
        if offset < 0:
            raise StorageError(f"cannot read {request.path!r} at offset {offset}: give 0 or more")
        if not buffer:
            return 0
        try:
            return self._read_pieces(file, offset, buffer)
        except OSError as error:
            action = f"read {len(buffer)} bytes at offset {offset} of"
            raise storage_error(action, request.path, error) from error

    def _read_pieces(self, file: OpenFile, offset: int, buffer: memoryview) -> int:
        num_done = 0
        for first in pieces(
            offset,
            len(buffer),
            address=address_of(buffer),
            alignment=file.alignment,
            bounce_bytes=self._bounce_bytes,
        ):
            piece: Piece | None = first
            while piece is not None:
                num_bytes = self._read_piece(file, piece, buffer)
                num_done = piece.start + piece.gained(num_bytes)
                piece = piece.rest(num_bytes, file.alignment.offset)
            if num_done < first.start + first.wanted:
                break
        return num_done

    def _read_piece(self, file: OpenFile, piece: Piece, buffer: memoryview) -> int:
        end = piece.start + piece.wanted
        if piece.in_place:
            return os.preadv(file.fd, [buffer[piece.start : end]], piece.offset)
        bounce = self._free.get()
        try:
            num_bytes = os.preadv(file.fd, [bounce[: piece.length]], piece.offset)
            gained = piece.gained(num_bytes)
            buffer[piece.start : piece.start + gained] = bounce[piece.skip : piece.skip + gained]
        finally:
            self._free.put(bounce)
        return num_bytes


def _from_settings(settings: dict[str, Any]) -> DirectStore:
    return DirectStore(**settings)
