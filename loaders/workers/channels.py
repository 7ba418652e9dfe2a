"""The ways between the trainer's process and its workers: indices there, batches back.

Stand where torch has its queues, with their methods.  Invariant: a worker that dies is noticed
at once, since its end of the channel closes; one whose trainer dies ends at once likewise.
"""

from __future__ import annotations

import contextlib
import errno
import os
import queue
import select
import socket
import struct
import time
from collections import deque
from collections.abc import Callable
from multiprocessing import reduction
from multiprocessing.connection import Connection, Pipe
from typing import Any

from iopipe.loaders.workers.messages import pack, unpack
from iopipe.loaders.workers.seeds import SeededDataset
from iopipe.loaders.workers.slabs import Arena, Mappings

_COUNTS = struct.Struct("<III")
_SLAB = struct.Struct("<IQ")
_NUMBER = struct.Struct("<I")
_GRACE_SECONDS = 1.0
_HURRY_SECONDS = 0.02
"""How long to wait for more once a worker has gone."""


class IndexQueue:
    """Indices for one worker, with what it has to know besides: slabs that came back, and the
    epoch.  Both ends use the same object; `inner` is a queue of multiprocessing's."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.freed: deque[int] = deque()
        """Numbers of slabs; any thread may append."""
        self.epoch = 0
        self.arena: Arena | None = None
        """At the worker's end, as the next."""
        self.seeded: SeededDataset | None = None

    def __getstate__(self) -> dict[str, Any]:
        own = {"freed": deque[int](), "epoch": 0, "arena": None, "seeded": None}
        return {"_inner": self._inner, **own}

    def put(self, item: Any) -> None:
        freed = [self.freed.popleft() for _ in range(len(self.freed))]
        self._inner.put((item, freed, self.epoch))

    def get(self, timeout: float | None = None) -> Any:
        item, freed, self.epoch = self._inner.get(timeout=timeout)
        if self.arena is not None:
            self.arena.give_back(freed)
        if self.seeded is not None:
            self.seeded.epoch = self.epoch
        return item

    def cancel_join_thread(self) -> None:
        self._inner.cancel_join_thread()

    def close(self) -> None:
        self._inner.close()


class ResultSender:
    """A worker's end: `put` sends a batch and returns when it is under way."""

    def __init__(self, connection: Connection, arena: Arena) -> None:
        self._connection = connection
        self._arena = arena

    def put(self, item: Any) -> None:
        message, used = pack(item, self._arena)
        new, gone = self._arena.finish(used)
        head = b"".join(
            [
                _COUNTS.pack(len(new), len(gone), len(used)),
                *(_SLAB.pack(slab.number, slab.num_bytes) for slab in new),
                *(_NUMBER.pack(number) for number in (*gone, *used)),
            ]
        )
        try:
            self._connection.send_bytes(head + message)
            for slab in new:
                reduction.send_handle(self._connection, slab.fd, None)
        except (BrokenPipeError, ConnectionResetError):
            return  # the trainer does not want it any more: the loop is told so next
        self._arena.sent(new)

    def cancel_join_thread(self) -> None:
        """There is no thread to wait for."""

    def close(self) -> None:
        self._connection.close()


class ResultQueue:
    """The trainer's end of all workers.  One consumer at a time."""

    def __init__(self) -> None:
        self._connections: dict[int, Connection] = {}
        self._mappings: dict[int, Mappings] = {}
        self._poll = select.poll()
        self._ready: deque[int] = deque()
        self._files: list[int] = []
        """In the order in which they were added."""
        self._ending: set[int] = set()
        self._is_missing_one = False
        self._put: deque[Any] = deque()
        self._waker: Connection | None = None

    def add(self, connection: Connection, freed: Callable[[int], None]) -> None:
        """The channel of one more worker; `freed` is told the numbers of slabs that come free."""
        file = connection.fileno()
        self._connections[file] = connection
        self._mappings[file] = Mappings(freed)
        self._files.append(file)
        self._poll.register(file, select.POLLIN)

    def let_go(self, number: int) -> None:
        """The worker that was added as number `number` was told to end: its end is none to look
        after, and hurries nobody."""
        self._ending.add(self._files[number])

    def allow_put(self) -> None:
        """From now on `put` may wake whoever waits in `get`, as torch does with its pin thread."""
        wakes, self._waker = Pipe(duplex=False)
        self._connections[wakes.fileno()] = wakes
        self._poll.register(wakes.fileno(), select.POLLIN)

    def put(self, item: Any) -> None:
        """An item of the trainer's own; from any thread."""
        assert self._waker is not None
        self._put.append(item)
        self._waker.send_bytes(b"")

    def get(self, timeout: float | None = None) -> Any:
        """The next result of any worker; `queue.Empty` after `timeout` seconds, or soon where a
        worker's end was closed, for the caller to look after it."""
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            if not self._ready:
                self._wait(end)
            if not self._ready:
                raise queue.Empty
            file = self._ready.popleft()
            try:
                data = self._connections[file].recv_bytes()
                if file not in self._mappings:
                    return self._put.popleft()
                message, slabs = self._opened(file, data)
            except (EOFError, OSError) as error:
                if not _is_end(error):
                    raise
                self._forget(file)
                self._is_missing_one |= file not in self._ending
                continue
            return unpack(message, slabs, self._mappings[file])

    def close(self) -> None:
        """Stop receiving: workers that still send are let go."""
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()
        self._ready.clear()
        if self._waker is not None:
            self._waker.close()

    def cancel_join_thread(self) -> None:
        """There is no thread to wait for."""

    def _wait(self, end: float | None) -> None:
        seconds = None if end is None else max(end - time.monotonic(), 0)
        if self._is_missing_one:
            seconds = min(seconds or _HURRY_SECONDS, _HURRY_SECONDS)
        found = self._poll.poll(None if seconds is None else seconds * 1000)
        self._ready.extend(file for file, _ in found)

    def _opened(self, file: int, data: bytes) -> tuple[bytes, list[int]]:
        """What a worker packed, and the slabs that it refers to."""
        connection, mappings = self._connections[file], self._mappings[file]
        num_new, num_gone, num_used = _COUNTS.unpack_from(data)
        place = _COUNTS.size
        for _ in range(num_new):
            number, num_bytes = _SLAB.unpack_from(data, place)
            mappings.add(number, receive_descriptor(connection), num_bytes)
            place += _SLAB.size
        end = place + _NUMBER.size * (num_gone + num_used)
        numbers = [number for (number,) in _NUMBER.iter_unpack(data[place:end])]
        mappings.drop(numbers[:num_gone])
        return data[end:], numbers[num_gone:]

    def _forget(self, file: int) -> None:
        self._poll.unregister(file)
        self._connections.pop(file).close()


def _is_end(error: Exception) -> bool:
    """Whether the other end was closed; in the middle of a message that is an `OSError` of
    multiprocessing's own, without a number."""
    return isinstance(error, EOFError | ConnectionResetError) or (
        isinstance(error, OSError) and error.errno is None
    )


def receive_descriptor(connection: Connection) -> int:
    """What `reduction.send_handle` sent from the other end; `EOFError` where that has gone,
    `OSError` where this process may open no more files: the kernel drops it then."""
    with socket.socket(fileno=os.dup(connection.fileno())) as line:
        _, descriptors, flags, _ = socket.recv_fds(line, 1, 1)
    if flags & socket.MSG_CTRUNC:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    if not descriptors:
        raise EOFError("the other end was closed before the descriptor came")
    return descriptors[0]


def end_with(connection: Connection) -> None:
    """End this process soon after the other end of `connection` is closed; never returns.

    The worker's loop is told to end as well and mostly does so first; it is not told where
    the trainer died, or where the garbage collector took its queues apart.
    """
    with contextlib.suppress(EOFError, OSError):
        connection.recv_bytes()
    time.sleep(_GRACE_SECONDS)
    os._exit(0)
