"""The threads of a store: they share out the requests of a submission.

Stands between the stores of local files and `concurrent.futures`.  Invariant: when `wait` returns
or raises, no buffer of the submission is written to any more.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from typing import TypeAlias

from iopipe.errors import StorageError
from iopipe.protocols import ReadRequest

ReadOne: TypeAlias = Callable[[ReadRequest], int]
"""Blocks until the request is served; the bytes read, or a `StorageError`."""


class SharedReads:
    """`Reads` whose requests are taken one by one by whoever has time.

    A Future for each request would cost more than a cached read of 100 KB.  Threads write one
    place of `num_bytes` each, so no lock is needed.
    """

    __slots__ = ("errors", "futures", "here", "num_bytes")

    def __init__(self, num_requests: int) -> None:
        self.num_bytes = [0] * num_requests
        self.errors: dict[int, StorageError] = {}
        self.futures: list[Future[None]] = []
        self.here: Callable[[], None] | None = None
        """What is left for the thread that waits; None where threads do it all."""

    def wait(self) -> list[int]:
        if self.here is not None:
            self.here()
            self.here = None  # it holds this object, and that the buffers
        if self.futures:  # asking about none takes longer than a cached read of 4 KB
            for future in wait(self.futures).done:
                future.result()
        if self.errors:
            raise self.errors[min(self.errors)]
        return self.num_bytes

    def drain(self, requests: Sequence[ReadRequest], left: deque[int], read: ReadOne) -> None:
        """Serve requests until none of the indices in `left` remains."""
        take, num_bytes = left.popleft, self.num_bytes
        while True:
            try:
                index = take()
            except IndexError:
                return
            try:
                num_bytes[index] = read(requests[index])
            except StorageError as error:
                self.errors[index] = error


class ReadThreads:
    """Up to `num_threads` threads, which start with the first read that needs them.

    With 0 their store serves a submission in the thread that waits.  They do not survive a
    fork, nor do the locks of a store: `check_usable` refuses in the child.
    """

    def __init__(self, num_threads: int, *, name: str) -> None:
        self.num_threads = num_threads
        self._name = name
        self._pool: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()
        self._closed = False
        self._process_id = os.getpid()

    def check_usable(self) -> None:
        if os.getpid() != self._process_id:
            raise StorageError(
                f"this store was opened in process {self._process_id} and does not survive a fork; "
                "open a new one in this process, or start workers with spawn"
            )
        if self._closed:
            raise StorageError("this store is closed; open a new one")

    def is_forked(self) -> bool:
        return os.getpid() != self._process_id

    def run(self, call: Callable[[], None], *, num_threads: int) -> list[Future[None]]:
        """Start `call` in that many threads, or in all there are."""
        self.check_usable()  # before the lock, which nobody frees in a child of a fork
        with self._lock:
            self.check_usable()
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self.num_threads, self._name)
            num_threads = min(self.num_threads, num_threads)
            return [self._pool.submit(call) for _ in range(num_threads)]

    def start(
        self, requests: Sequence[ReadRequest], left: deque[int], reads: SharedReads, read: ReadOne
    ) -> None:
        """Serve the requests at the indices in `left`, which is emptied."""
        drain = partial(reads.drain, requests, left, read)
        reads.futures += self.run(drain, num_threads=len(left))

    def close(self) -> None:
        """Wait for the reads under way and end the threads; idempotent."""
        with self._lock:
            self._closed = True
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown()
