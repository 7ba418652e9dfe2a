"""Local files through io_uring: many reads in one system call.

Stands where `storage.direct` stands.  Invariant: one thread owns the ring; a read that it was
given has ended when its submission is waited for, or fails with it.
"""

from __future__ import annotations

import errno
import mmap
import os
import queue
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from iopipe.errors import PipelineError, StorageError
from iopipe.protocols import ReadRequest, Reads
from iopipe.storage.alignment import Piece, address_of, pieces
from iopipe.storage.descriptors import Descriptors, OpenFile, storage_error
from iopipe.storage.posix import PosixStore, plain_path
from iopipe.storage.ring import Ring


class UringStore:
    """A `Store` over io_uring with `queue_depth` reads under way, by default with O_DIRECT.

    Whole blocks whose address in the caller's buffer suits the device are read in place; what
    is left goes through `queue_depth` registered bounce buffers of `bounce_bytes`.  Where the
    kernel forbids io_uring the constructor raises a `StorageError` that says what does.  A
    pickled store travels as its settings; a forked child must open its own.
    """

    def __init__(
        self,
        *,
        queue_depth: int = 64,
        direct: bool = True,
        bounce_bytes: int = 1 << 16,
        max_open_files: int = 256,
    ) -> None:
        """With `direct=False` reads go through the page cache, and in place always.

        The bounce buffers count against `ulimit -l`, often 8 MiB: 64 of 64 KiB are 4 MiB.
        """
        if not 1 <= queue_depth <= 4096 or queue_depth & (queue_depth - 1):
            raise PipelineError(f"queue_depth={queue_depth}: give a power of two up to 4096")
        if bounce_bytes < mmap.PAGESIZE or bounce_bytes % mmap.PAGESIZE or max_open_files < 1:
            raise PipelineError(
                f"bounce_bytes={bounce_bytes}, max_open_files={max_open_files}: give a multiple "
                f"of the page, {mmap.PAGESIZE}, and 1 or more"
            )
        self._settings = {
            "queue_depth": queue_depth,
            "direct": direct,
            "bounce_bytes": bounce_bytes,
            "max_open_files": max_open_files,
        }
        self._names = PosixStore()
        self._files = Descriptors(limit=max_open_files, direct=direct)
        self._inbox: queue.SimpleQueue[_Submission | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._process_id = os.getpid()
        # The thread knows the server alone, so that a store that is dropped ends it.
        server = _Server(queue_depth, bounce_bytes if direct else 0, self._files)
        self._end = weakref.finalize(self, self._inbox.put, None)
        self._thread = threading.Thread(
            target=server.run, args=(self._inbox,), name="iopipe-uring", daemon=True
        )
        self._thread.start()

    def __reduce__(self) -> tuple[Callable[..., UringStore], tuple[dict[str, Any]]]:
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
        return self.submit([ReadRequest(path, offset, buffer)]).wait()[0]

    def submit(self, requests: Sequence[ReadRequest]) -> Reads:
        submission = _Submission(requests)
        with self._lock:
            self._check_usable()
            self._inbox.put(submission)
        return submission

    def describe(self) -> str:
        how = "O_DIRECT" if self._settings["direct"] else "page cache"
        return f"uring: io_uring with {how}, queue depth {self._settings['queue_depth']}"

    def close(self) -> None:
        """Wait for the reads under way, end the thread, close ring and files; idempotent."""
        if os.getpid() != self._process_id:
            return
        with self._lock:
            self._end()
        self._thread.join()
        self._files.clear()
        self._names.close()

    def _check_usable(self) -> None:
        if os.getpid() != self._process_id:
            raise StorageError(
                f"this store was opened in process {self._process_id} and does not survive a fork; "
                "open a new one in this process, or start workers with spawn"
            )
        if not self._end.alive:
            raise StorageError("this store is closed; open a new one")


class _Submission:
    """`Reads`; only the thread of the ring writes to it until it has ended."""

    def __init__(self, requests: Sequence[ReadRequest]) -> None:
        self.requests = requests
        self.num_bytes = [len(request.buffer) for request in requests]
        self.errors: dict[int, Exception] = {}
        self.latest: tuple[str, OpenFile] | None = None
        """The file of the request before; readers ask for one shard after the other."""
        self.num_left = 1
        """Reads to be made, and one for as long as not all are known."""
        self._ended = threading.Event()

    def count_down(self) -> None:
        self.num_left -= 1
        if self.num_left == 0:
            self._ended.set()

    def fail(self, error: Exception) -> None:
        self.errors[0] = error
        self._ended.set()

    def wait(self) -> list[int]:
        self._ended.wait()
        if self.errors:
            raise self.errors[min(self.errors)]
        return self.num_bytes


class _Read(NamedTuple):
    """What the kernel is at; keeps file and buffer alive."""

    submission: _Submission
    place: int
    """Of its request among those of the submission."""
    piece: Piece
    file: OpenFile
    address: int
    """Of the request's buffer."""


class _Server:
    """The work of the ring's thread: owns ring and bounce buffers."""

    def __init__(self, depth: int, bounce_bytes: int, files: Descriptors) -> None:
        self._files = files
        self._bounce_bytes = bounce_bytes
        self._is_open = True
        self._places = list(range(depth))
        """Free ones; a place is a tag and a bounce buffer."""
        self._under_way: dict[int, _Read] = {}
        self._left: deque[_Read] = deque()
        self._room = memoryview(mmap.mmap(-1, depth * bounce_bytes or mmap.PAGESIZE))
        self._address = address_of(self._room)
        self._ring = Ring(depth)
        if bounce_bytes:
            starts = range(self._address, self._address + depth * bounce_bytes, bounce_bytes)
            try:
                self._ring.register([(start, bounce_bytes) for start in starts])
            except StorageError:
                self._ring.close()
                raise

    def run(self, inbox: queue.SimpleQueue[_Submission | None]) -> None:
        """Serve until None comes out of `inbox` and all before it is done."""
        try:
            self._ring.enable()
            self._serve(inbox)
        except Exception as error:  # whoever waits must not wait for ever
            self._refuse(error, inbox)
        finally:
            self._ring.close()

    def _serve(self, inbox: queue.SimpleQueue[_Submission | None]) -> None:
        while self._is_open or self._left or self._under_way:
            try:
                submission = inbox.get(block=not (self._left or self._under_way))
            except queue.Empty:
                self._turn(num_wanted=1)
                continue
            if submission is None:
                self._is_open = False
                continue
            try:
                self._accept(submission)
            except Exception as error:
                submission.fail(error)
                raise
            del submission  # or its buffers would live until the next one

    def _refuse(self, error: Exception, inbox: queue.SimpleQueue[_Submission | None]) -> None:
        """The ring is of no use any more: all that is and will be asked fails.

        What the kernel may still write to is kept alive until the store is closed.
        """
        for read in (*self._left, *self._under_way.values()):
            read.submission.fail(error)
        while self._is_open:
            submission = inbox.get()
            if submission is None:
                return
            submission.fail(error)

    def _accept(self, submission: _Submission) -> None:
        for index in range(len(submission.requests)):
            try:
                self._plan(submission, index)
            except (StorageError, TypeError, ValueError) as error:  # the last two: no such buffer
                submission.errors[index] = error
            while len(self._left) > len(self._places):
                self._turn(num_wanted=1)
        submission.count_down()

    def _plan(self, submission: _Submission, index: int) -> None:
        path, offset, buffer = _parts(submission.requests[index])
        file = self._file(submission, path)
        if not buffer:
            return
        address = address_of(buffer)
        for piece in pieces(
            offset,
            len(buffer),
            address=address,
            alignment=file.alignment,
            bounce_bytes=self._bounce_bytes,
        ):
            self._left.append(_Read(submission, index, piece, file, address))
            submission.num_left += 1

    def _file(self, submission: _Submission, path: str) -> OpenFile:
        if submission.latest is not None and submission.latest[0] == path:
            return submission.latest[1]
        file = self._files.get(plain_path(path))
        if self._bounce_bytes:
            file.alignment.check_fits(self._bounce_bytes, path)
        submission.latest = (path, file)
        return file

    def _turn(self, *, num_wanted: int) -> None:
        """Hand over what there is room for, take in what is done."""
        while self._left and self._places:
            self._push(self._left.popleft())
        for place, result in self._ring.enter(num_wanted=num_wanted):
            self._finish(self._under_way[place], place, result)
            del self._under_way[place]
            self._places.append(place)

    def _push(self, read: _Read) -> None:
        place, piece = self._places.pop(), read.piece
        self._under_way[place] = read
        if piece.in_place:
            address, index = read.address + piece.start, None
        else:
            address, index = self._address + place * self._bounce_bytes, place
        self._ring.push(
            read.file.fd,
            offset=piece.offset,
            address=address,
            length=piece.length,
            tag=place,
            buffer_index=index,
        )

    def _finish(self, read: _Read, place: int, result: int) -> None:
        submission, index, piece, file, _ = read
        # Nobody here cancels: the kernel does where a signal comes while it starts a thread.
        if result in (-errno.EAGAIN, -errno.EINTR, -errno.ECANCELED):
            self._left.append(read)
            return
        if result < 0:
            submission.errors[index] = _failed(submission.requests[index], -result)
        else:
            gained = piece.gained(result)
            if not piece.in_place:
                start = place * self._bounce_bytes + piece.skip
                buffer = submission.requests[index].buffer
                buffer[piece.start : piece.start + gained] = self._room[start : start + gained]
            rest = piece.rest(result, file.alignment.offset)
            if rest is not None:
                self._left.append(read._replace(piece=rest))
                return
            if gained < piece.wanted:  # the file ended here
                submission.num_bytes[index] = min(submission.num_bytes[index], piece.start + gained)
        submission.count_down()


def _parts(request: ReadRequest) -> tuple[str, int, memoryview]:
    if request.offset < 0:
        raise StorageError(
            f"cannot read {request.path!r} at offset {request.offset}: give 0 or more"
        )
    return request.path, request.offset, request.buffer


def _failed(request: ReadRequest, code: int) -> StorageError:
    action = f"read {len(request.buffer)} bytes at offset {request.offset} of"
    return storage_error(action, request.path, OSError(code, os.strerror(code)))


def _from_settings(settings: dict[str, Any]) -> UringStore:
    return UringStore(**settings)
