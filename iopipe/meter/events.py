"""The clocks that steps are measured on: a CUDA stream's, or the host's.

Stands under the meter and the slots.  Invariant: recording and asking never wait for the
device.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

from iopipe.protocols import Event


class HostEvents:
    """Where compute runs on the host thread an event is a reading of its clock."""

    stream = "host thread"

    def __init__(self, clock: Callable[[], int] = time.perf_counter_ns) -> None:
        self._clock = clock

    def record(self) -> Event:
        return self._clock()

    def wait(self, event: Event) -> None:
        """What is past on the host is done."""

    def done(self, event: Event) -> bool:
        return True

    def synchronize(self, event: Event) -> None:
        """What is past on the host is done."""

    def elapsed_ns(self, start: Event, end: Event) -> int:
        return int(end) - int(start)

    def release(self, event: Event) -> None:
        """Readings need no pool."""


class CudaEvents:
    """CUDA events on the current stream of the calling thread, pooled.

    Resolution about 0.5 us.  An elapsed time is a float32 of milliseconds, so intervals are
    best short: at an hour its last place is worth 250 us.  CUDA calls an event done that was
    never recorded; none such leaves `record`, and `done` must be asked of no other.  A
    released event must not be waited for by anyone: its next recording moves it.
    """

    def __init__(self, device: Any, *, stream: Any = None) -> None:
        """`stream`: this one (torch.cuda.Stream), whichever is current."""
        import torch

        self._torch = torch
        place = torch.device(device)
        # By number: torch takes 4 us longer to find the current stream of a device object.
        self._index = torch.cuda.current_device() if place.index is None else place.index
        self._stream = stream
        self._pool: deque[Any] = deque()

    @property
    def stream(self) -> str:
        return f"cuda:{self._index}"

    def _current(self) -> Any:
        if self._stream is not None:
            return self._stream
        return self._torch.cuda.current_stream(self._index)

    def record(self) -> Event:
        try:
            event = self._pool.popleft()
        except IndexError:
            event = self._torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(self._current())
        return event

    def wait(self, event: Event) -> None:
        self._current().wait_event(event)

    def done(self, event: Event) -> bool:
        return bool(event.query())

    def synchronize(self, event: Event) -> None:
        event.synchronize()

    def elapsed_ns(self, start: Event, end: Event) -> int:
        if start is end:
            return 0
        return round(float(start.elapsed_time(end)) * 1e6)

    def release(self, event: Event) -> None:
        self._pool.append(event)
