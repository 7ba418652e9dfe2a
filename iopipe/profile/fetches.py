"""What a loader's worker did for each batch, measured where the worker runs.

Stands inside torch's loader processes, around its fetcher.  Invariant: the batch is what it
would have been; its times travel beside it and are taken off before the script sees it.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

from iopipe.meter.spans import Span

TIMED = "IOPIPE_PROFILE_TIMED"
"""Set while one of torch's own iterators starts: whoever makes a fetcher then is its worker.
Other libraries' iterators use the same fetchers and would hand our wrapper to the script."""


class TimedBatch:
    """A batch with the times of its making; numbers alone, which are sent the fastest."""

    __slots__ = ("batch", "cpu_ns", "moments")

    def __init__(self, batch: Any, moments: tuple[int, int, int, int], cpu_ns: int) -> None:
        self.batch = batch
        self.moments = moments
        """Begun, done with waiting, done with computing, collated."""
        self.cpu_ns = cpu_ns

    def spans(self) -> tuple[Span, ...]:
        """Waiting, computing, collating, one after the other.

        The dataset's code is seen as a whole.  What it spent off the processor without
        queueing for one it waited for: storage, as a rule.  The rest is decode, transforms
        included.
        """
        begun, waited, fetched, collated = self.moments
        return (
            Span("worker", "storage", begun, waited),
            Span("worker", "decode", waited, fetched),
            Span("worker", "collate", fetched, collated),
        )

    def pin_memory(self) -> TimedBatch:
        """torch's pinning asks for this of types that it does not know."""
        from torch.utils.data._utils.pin_memory import pin_memory

        pinned = pin_memory(self.batch)  # type: ignore[no-untyped-call]
        return TimedBatch(pinned, self.moments, self.cpu_ns)

    def __reduce__(self) -> Any:
        return TimedBatch, (self.batch, self.moments, self.cpu_ns)


def unwrapped(item: Any) -> Any:
    """The batch as the script expects it."""
    return item.batch if isinstance(item, TimedBatch) else item


def timed_creator(create: Callable[..., Any]) -> Callable[..., Any]:
    """torch's `create_fetcher`, whose fetchers time what they do."""

    def create_fetcher(*arguments: Any, **options: Any) -> Any:
        fetcher = create(*arguments, **options)
        if os.environ.pop(TIMED, None):
            _time(fetcher)
        return fetcher

    return create_fetcher


def _time(fetcher: Any) -> None:
    fetch, collate = fetcher.fetch, fetcher.collate_fn
    watch = _Watch()

    def timed_collate(samples: Any) -> Any:
        watch.fetched()
        return collate(samples)

    def timed_fetch(index: Any) -> TimedBatch:
        watch.start()
        batch = fetch(index)
        return TimedBatch(batch, watch.moments(), watch.cpu_ns)

    fetcher.collate_fn = timed_collate
    fetcher.fetch = timed_fetch


class _Watch:
    """The clocks of one thread."""

    def __init__(self) -> None:
        self._delay = _run_delay()
        self._start = self._fetched = (0, 0, 0)
        self.cpu_ns = 0

    def start(self) -> None:
        self._start = self._fetched = self._now()

    def fetched(self) -> None:
        self._fetched = self._now()

    def moments(self) -> tuple[int, int, int, int]:
        collated, on_cpu_ns_at_end = time.perf_counter_ns(), time.thread_time_ns()
        begun, fetched = self._start[0], self._fetched[0]
        self.cpu_ns = on_cpu_ns_at_end - self._start[1]
        on_cpu_ns = self._fetched[1] - self._start[1]
        queued_ns = self._fetched[2] - self._start[2]
        waited = fetched - min(fetched - begun, on_cpu_ns + queued_ns)
        return begun, waited, fetched, collated

    def _now(self) -> tuple[int, int, int]:
        return time.perf_counter_ns(), time.thread_time_ns(), self._delay()


class _RunDelay:
    """How long the thread that made it has stood in the queue for a processor, in nanoseconds.

    The second number of schedstat (Linux, Documentation/scheduler/sched-stats.rst); 0 where
    the system does not tell.  Owns a descriptor, which is closed with it.
    """

    def __init__(self) -> None:
        self.process = os.getpid()
        self._file: int | None = None
        try:
            self._file = os.open("/proc/thread-self/schedstat", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return
        weakref.finalize(self, os.close, self._file).atexit = False

    def __call__(self) -> int:
        return 0 if self._file is None else int(os.pread(self._file, 96, 0).split()[1])


_threads = threading.local()


def _run_delay() -> _RunDelay:
    """Of the calling thread.  One for all its fetchers: without workers each iteration makes
    another fetcher.  A forked process has its own, since the file tells of its parent's thread."""
    found: _RunDelay | None = getattr(_threads, "run_delay", None)
    if found is None or found.process != os.getpid():
        found = _threads.run_delay = _RunDelay()
    return found
