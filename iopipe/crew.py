"""The threads of one stage, of which more can come and some can go between two items.

Stands between the engine and the loops that its threads run.  Invariant: a thread leaves only
where it holds no item, so that neither order nor results depend on how many there are.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from iopipe.edge import Closed


class Crew:
    """Threads that all run `work` until it returns or its edges are closed; thread-safe.

    `work` asks `is_surplus()` between two items and returns where it is told so.
    """

    def __init__(self, name: str, work: Callable[[], None], *, size: int) -> None:
        self._name = name
        self._work = work
        self._wanted = size
        self._num_here = 0
        self._num_started = 0
        self._threads: list[threading.Thread] = []
        self._is_running = self._is_over = False
        # Reentrant, as the lock of an edge is.
        self._lock = threading.RLock()

    @property
    def size(self) -> int:
        """How many there shall be; a few more while some are still at their last item."""
        return self._wanted

    def start(self) -> None:
        with self._lock:
            self._is_running = True
            self._fill()

    def resize(self, size: int) -> None:
        """New threads start now; those that are too many leave after the item they work on."""
        with self._lock:
            self._wanted = size
            self._fill()

    def is_surplus(self) -> bool:
        """For one of the threads, between two items: True tells it to leave."""
        if self._num_here <= self._wanted:
            return False
        with self._lock:
            if self._num_here <= self._wanted:
                return False
            self._num_here -= 1
            return True

    def join(self) -> None:
        """No thread starts any more; wait for those that are there, but for the caller."""
        with self._lock:
            self._is_over = True
            threads = list(self._threads)
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join()

    def _fill(self) -> None:
        if self._is_over or not self._is_running:
            return
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        while self._num_here < self._wanted:
            thread = threading.Thread(
                target=self._until_closed,
                name=f"iopipe-{self._name}-{self._num_started}",
                daemon=True,
            )
            self._num_started += 1
            self._num_here += 1
            self._threads.append(thread)
            thread.start()

    def _until_closed(self) -> None:
        try:
            self._work()
        except Closed:
            return
