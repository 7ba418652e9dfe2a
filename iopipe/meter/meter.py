"""Watches the training loop ask for batches, and charges what its stream waits for.

Stands in the consumer's thread.  Invariant: it never waits for the device, never changes
data or order, and its memory does not grow with the number of steps.

Around the hand-off of batch N, on the clock of the compute stream:

    E  end of step N-1's kernels (`step()`; without it, the request)
    T  the request for batch N
    A  the batch is handed over
    B  ... and its bytes are there (the stream has waited for the copy)

Each is an event in stream order, so it lies at the later of the moment it was recorded and
the moment the stream got there.  T..A is therefore the part of the host's wait that found
the stream idle (input, host), A..B what the copy still took (input, device), E..T what the
user's own code took.  Time that the stream had work for is charged to nobody, however long
the host waited.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from iopipe.meter.events import HostEvents
from iopipe.meter.report import EdgeReport, ErrorReport, Percentiles, Report, StageReport, Step
from iopipe.meter.spans import Span, attribute
from iopipe.protocols import Cause, Event, Events

T = TypeVar("T")


@dataclass(slots=True)
class _Record:
    """One hand-off whose events the device may not have reached yet."""

    end: Event
    request: Event
    handed: Event
    ready: Event
    request_ns: int
    handed_ns: int
    previous_ns: int
    spans: Sequence[Span]


class Meter:
    """Measures any loop over batches; for one thread.

    `watch(loader)` wraps a foreign loader; an iopipe run has a meter of its own.
    """

    def __init__(
        self,
        events: Events | None = None,
        *,
        clock: Callable[[], int] = time.perf_counter_ns,
        max_steps: int = 100_000,
    ) -> None:
        self._events: Events = events if events is not None else HostEvents(clock)
        self._clock = clock
        self._pending: deque[_Record] = deque()
        self._steps: deque[Step] = deque(maxlen=max_steps)
        self._leads_ns: deque[int] = deque(maxlen=max_steps)
        self._causes_ns: dict[Cause, int] = {}
        self._stall_ns = 0
        self._other_host_ns = 0
        self._num_steps = 0
        self._num_samples = 0
        self._end: Event | None = None
        self._request: tuple[Event, int] | None = None
        self._anchor: tuple[Event, int] | None = None
        self._started_ns: int | None = None
        self._started_cpu_ns = 0
        self._first_handed_ns: int | None = None
        self._last_handed_ns = 0
        self._last_ns = 0
        self._cpu_ns = 0

    def watch(self, loader: Iterable[T]) -> Iterator[T]:
        """The batches of any loader, measured; its waits have the cause 'loader'."""
        batches = iter(loader)
        while True:
            self.enter()
            start_ns = self._clock()
            try:
                batch = next(batches)
            except StopIteration:
                self.finish()
                return
            span = Span("loader", "loader", start_ns, self._clock())
            self.handoff(spans=(span,), num_samples=_num_samples(batch))
            yield batch

    def step(self) -> None:
        """The kernels of this step are enqueued; optional, makes the end of it exact."""
        if self._end is not None:
            self._events.release(self._end)
        self._end = self._events.record()

    def enter(self) -> None:
        """The training loop asks for its next batch."""
        now_ns = self._clock()
        if self._started_ns is None:
            self._started_ns, self._started_cpu_ns = now_ns, time.process_time_ns()
        self._last_ns = now_ns
        self._request = (self._events.record(), now_ns)
        if self._anchor is None:
            self._anchor = self._request
        self._harvest()

    def handoff(
        self, *, spans: Sequence[Span] = (), ready: Event | None = None, num_samples: int = 0
    ) -> None:
        """The batch is handed over; the stream is made to wait for `ready`.

        `spans` tell what was done to it and when.
        """
        if self._request is None:
            raise RuntimeError("handoff comes after enter")
        handed = self._events.record()
        if ready is not None:
            self._events.wait(ready)
        arrived = self._events.record() if ready is not None else handed
        handed_ns = self._clock()
        self._num_samples += num_samples
        request, request_ns = self._request
        if self._first_handed_ns is None:
            self._first_handed_ns = handed_ns
        else:
            end = request if self._end is None else self._end
            self._pending.append(
                _Record(
                    end,
                    request,
                    handed,
                    arrived,
                    request_ns,
                    handed_ns,
                    self._last_handed_ns,
                    tuple(spans),
                )
            )
        self._last_handed_ns = self._last_ns = handed_ns
        self._request = self._end = None

    def finish(self) -> None:
        """There is no next batch."""
        self._request = None
        self._cpu_ns = time.process_time_ns() - self._started_cpu_ns
        self._harvest()

    def report(
        self,
        *,
        stages: tuple[StageReport, ...] = (),
        edges: tuple[EdgeReport, ...] = (),
        errors: ErrorReport | None = None,
    ) -> Report:
        """What is known so far; steps that the device has not reached yet are left out."""
        self._harvest()
        first_ns = self._first_handed_ns
        wall_ns = 0 if first_ns is None else self._last_ns - first_ns
        return Report(
            compute_stream=self._events.stream,
            num_steps=self._num_steps,
            num_samples=self._num_samples,
            wall_seconds=wall_ns / 1e9,
            samples_per_second=_ratio(self._num_samples * 1e9, wall_ns),
            first_batch_seconds=self._first_batch_ns() / 1e9,
            cpu_seconds=self._cpu_now_ns() / 1e9,
            attributed_stall_seconds=self._stall_ns / 1e9,
            attributed_stall_fraction=_ratio(self._stall_ns, wall_ns),
            causes={name: _ratio(part, wall_ns) for name, part in self._causes_ns.items()},
            other_host_fraction=_ratio(self._other_host_ns, wall_ns),
            step_ms=_percentiles([step.duration_ns for step in self._steps]),
            stall_ms=_percentiles([step.stall_ns for step in self._steps]),
            lead_ms=self._lead_ms(),
            stages=stages,
            edges=edges,
            errors=errors or ErrorReport(),
            steps=tuple(self._steps),
        )

    # ---- harvest ---------------------------------------------------------------------

    def _harvest(self) -> None:
        """Take in the steps whose last event the device has passed, oldest first."""
        while self._pending and self._events.done(self._pending[0].ready):
            self._take_in(self._pending.popleft())

    def _take_in(self, record: _Record) -> None:
        events = self._events
        host_ns = events.elapsed_ns(record.request, record.handed)
        device_ns = events.elapsed_ns(record.handed, record.ready)
        causes = attribute(record.spans, record.handed_ns - host_ns, record.handed_ns)
        if device_ns:
            causes["h2d"] = causes.get("h2d", 0) + device_ns
        for cause, part_ns in causes.items():
            self._causes_ns[cause] = self._causes_ns.get(cause, 0) + part_ns
        self._num_steps += 1
        self._stall_ns += host_ns + device_ns
        self._other_host_ns += events.elapsed_ns(record.end, record.request)
        self._leads_ns.append(self._run_ahead_ns(record))
        self._steps.append(
            Step(
                start_ns=record.previous_ns - (self._first_handed_ns or 0),
                duration_ns=record.handed_ns - record.previous_ns,
                stall_ns=host_ns + device_ns,
                cause=max(causes, key=lambda cause: causes[cause]) if causes else "queue",
            )
        )
        self._give_back(record)

    def _run_ahead_ns(self, record: _Record) -> int:
        """How much later the stream reached the request than the host made it, up to a
        constant: the distance of the two clocks, which `_lead_ms` takes out."""
        if self._anchor is None:
            return 0
        event, host_ns = self._anchor
        return self._events.elapsed_ns(event, record.request) - (record.request_ns - host_ns)

    def _lead_ms(self) -> float:
        """No event is reached before it is recorded, so the smallest distance seen is the
        closest to the clocks' own."""
        if not self._leads_ns:
            return 0.0
        return float(np.median(self._leads_ns) - min(0, min(self._leads_ns))) / 1e6

    def _give_back(self, record: _Record) -> None:
        anchor = self._anchor[0] if self._anchor is not None else None
        for event in {
            id(e): e for e in (record.end, record.request, record.handed, record.ready)
        }.values():
            if event is not anchor:
                self._events.release(event)

    def _first_batch_ns(self) -> int:
        if self._started_ns is None or self._first_handed_ns is None:
            return 0
        return self._first_handed_ns - self._started_ns

    def _cpu_now_ns(self) -> int:
        if self._cpu_ns or self._started_ns is None:
            return self._cpu_ns
        return time.process_time_ns() - self._started_cpu_ns


def _percentiles(values_ns: list[int]) -> Percentiles:
    if not values_ns:
        return Percentiles()
    p50, p95, p99 = np.percentile(values_ns, (50, 95, 99)) / 1e6
    return Percentiles(p50=float(p50), p95=float(p95), p99=float(p99))


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _num_samples(batch: Any) -> int:
    """The first dimension of the first array in a batch; 0 where there is none."""
    parts = batch.values() if isinstance(batch, dict) else batch
    candidates = [batch] if hasattr(batch, "shape") else parts
    for part in candidates if isinstance(candidates, Iterable) else ():
        if getattr(part, "shape", ()):
            return int(part.shape[0])
    return 0
