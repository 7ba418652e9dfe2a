"""A training step on a device with a virtual clock: host, compute stream, copy stream.

The recurrence is written out here a second time, apart from the meter: who is free when.
Times are in nanoseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from iopipe.meter.meter import Meter
from iopipe.meter.spans import Span

MS = 1_000_000
LAUNCH_LATENCY = 20_000


@dataclass(slots=True)
class VirtualDevice:
    """`Events` on a stream whose work ends at `stream_free`."""

    stream: str = "virtual device"
    host: int = 1_000 * MS
    stream_free: int = 0
    copy_free: int = 0

    def clock(self) -> int:
        return self.host

    def record(self) -> int:
        return max(self.host, self.stream_free)

    def wait(self, event: int) -> None:
        self.stream_free = max(self.stream_free, event)

    def done(self, event: int) -> bool:
        return event <= self.host

    def synchronize(self, event: int) -> None:
        raise AssertionError("the meter must not wait for the device")

    def elapsed_ns(self, start: int, end: int) -> int:
        return end - start

    def release(self, event: int) -> None:
        return


@dataclass(slots=True, kw_only=True)
class Training:
    """A loop of steps; durations in nanoseconds."""

    load: Callable[[int], int]
    """How long the loader works on batch i."""
    serial: bool = False
    """The loader starts on a batch only when it is asked for."""
    depth: int = 2
    h2d: int = 1 * MS
    pageable: bool = False
    gpu: int = 10 * MS
    launch: int = 1 * MS
    python: int = 0
    """User code after the step, before the next batch is asked for."""
    synchronizes: bool = False
    """`.item()` at the end of every step."""
    device: VirtualDevice = field(default_factory=VirtualDevice)
    idle: int = 0
    """What the stream really stood idle before steps because of host and copies."""
    _ready: list[int] = field(default_factory=list)
    _taken: list[int] = field(default_factory=list)

    def run(self, num_steps: int, *, marks_steps: bool = False) -> Meter:
        device = self.device
        meter = Meter(device, clock=device.clock)
        previous_end = None
        for number in range(num_steps):
            meter.enter()
            span = self._fetch(number)
            arrival = self._copy()
            asked = device.stream_free
            meter.handoff(spans=span, ready=arrival, num_samples=4)
            if previous_end is not None:
                self.idle += max(device.stream_free, device.host, asked) - previous_end
            previous_end = self._compute()
            if marks_steps:
                meter.step()
            if self.synchronizes:
                device.host = max(device.host, device.stream_free)
            device.host += self.python
            if not self.synchronizes:  # frameworks run ahead by a few steps only
                device.host = max(device.host, device.stream_free - 4 * self.gpu)
        device.host = max(device.host, device.stream_free)
        meter.enter()
        meter.finish()
        return meter

    def _fetch(self, number: int) -> Sequence[Span]:
        device = self.device
        if self.serial:
            start = device.host
        else:
            free = self._taken[number - self.depth] if number >= self.depth else 1_000 * MS
            start = max(free, self._ready[-1] if self._ready else 1_000 * MS)
        self._ready.append(start + self.load(number))
        device.host = max(device.host, self._ready[-1])
        self._taken.append(device.host)
        return [Span("decode", "decode", start, self._ready[-1])]

    def _copy(self) -> int:
        device = self.device
        device.copy_free = max(device.host, device.copy_free) + self.h2d
        if self.pageable:
            device.host = device.copy_free
        return device.copy_free

    def _compute(self) -> int:
        device = self.device
        start = max(device.stream_free, device.host + LAUNCH_LATENCY)
        device.host += self.launch
        device.stream_free = max(start + self.gpu, device.host + LAUNCH_LATENCY)
        return device.stream_free
