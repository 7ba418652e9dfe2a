"""What finished laps add up to.

Stands behind the meter's face to the training loop and in front of the report.  Invariant:
every number is on the clock of the compute stream and covers the same laps, those that the
stream has passed; memory does not grow with their number.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from iopipe.meter.lead import RunAhead
from iopipe.meter.report import Percentiles, Step
from iopipe.meter.spans import Span, attribute
from iopipe.protocols import Cause, Event, Events

_IDLE_NS = 20_000
"""A wait above this was idle time: two events back to back on a busy stream lie 1-2 us
apart."""

Kind: TypeAlias = Literal["first", "step", "last", "again"]
"""'first': the wait for the very first batch.  'step': the rule.  'last': ends an iteration, with
the request that found nothing.  'again': begins another one, with its request; the pause
between the two belongs to nobody."""


@dataclass(slots=True, kw_only=True)  # frozen ones take 0.6 us longer to make
class Lap:
    """From one hand-off to the next, with the step in between; events in stream order."""

    kind: Kind
    origin: Event
    """Where the lap begins: the batch before this one was there."""
    end: Event | None
    """The step's last kernel, where it was marked."""
    request: Event
    handed: Event
    ready: Event
    request_ns: int
    """On the host's clock, as `handed_ns`."""
    handed_ns: int
    spans: Sequence[Span]
    num_samples: int
    """Consumed in this lap: those of the batch before."""

    @property
    def is_step(self) -> bool:
        return self.kind in ("step", "again")

    def spent_events(self) -> list[Event]:
        """Each event once, less the one that the next lap begins with."""
        events = {id(e): e for e in (self.origin, self.request, self.handed, self.ready)}
        if self.end is not None:
            events[id(self.end)] = self.end
        if self.kind != "last":
            del events[id(self.ready)]
        return list(events.values())


class Tally:
    """Running totals over all laps, and the last `max_steps` steps one by one."""

    def __init__(self, events: Events, max_steps: int) -> None:
        self._events = events
        self._run_ahead = RunAhead()
        self._leads_ns: deque[int] = deque(maxlen=max_steps)
        self.steps: deque[Step] = deque(maxlen=max_steps)
        self.causes_ns: dict[Cause, int] = {}
        self.first_batch_ns = 0
        self.wall_ns = 0
        self.stall_ns = 0
        self.other_host_ns = 0
        self.num_steps = 0
        self.num_samples = 0

    def add(self, lap: Lap) -> None:
        """Take in a lap whose events are all done; laps come in order."""
        elapsed_ns = self._events.elapsed_ns
        before_ns = elapsed_ns(lap.origin, lap.request)
        host_ns = elapsed_ns(lap.request, lap.handed)
        device_ns = elapsed_ns(lap.handed, lap.ready)
        if lap.kind == "first":
            self.first_batch_ns = host_ns + device_ns
            self._run_ahead.restart(lap.request_ns, -self.first_batch_ns)
            return
        causes = attribute(lap.spans, lap.handed_ns - host_ns, lap.handed_ns)
        if device_ns:
            causes["h2d"] = causes.get("h2d", 0) + device_ns
        self._add_lead(lap, before_ns, host_ns)
        if lap.is_step:
            self._add_step(before_ns + host_ns + device_ns, causes)
        if lap.end is not None:
            self.other_host_ns += elapsed_ns(lap.end, lap.request)
        for cause, part_ns in causes.items():
            self.causes_ns[cause] = self.causes_ns.get(cause, 0) + part_ns
        self.stall_ns += host_ns + device_ns
        self.wall_ns += before_ns + host_ns + device_ns
        self.num_samples += lap.num_samples

    def step_ms(self) -> Percentiles:
        return _percentiles([step.duration_ns for step in self.steps])

    def stall_ms(self) -> Percentiles:
        return _percentiles([step.stall_ns for step in self.steps])

    def lead_ms(self) -> float:
        return float(np.median(self._leads_ns)) / 1e6 if self._leads_ns else 0.0

    def _add_step(self, duration_ns: int, causes: dict[Cause, int]) -> None:
        self.num_steps += 1
        self.steps.append(
            Step(
                start_ns=self.wall_ns,
                duration_ns=duration_ns,
                stall_ns=sum(causes.values()),
                cause=max(causes, key=lambda cause: causes[cause]) if causes else "queue",
            )
        )

    def _add_lead(self, lap: Lap, before_ns: int, host_ns: int) -> None:
        request_ns = self.wall_ns + before_ns
        if lap.kind == "again":
            self._run_ahead.restart(lap.request_ns, request_ns)
        lead_ns = self._run_ahead.at_request(lap.request_ns, request_ns)
        if host_ns > _IDLE_NS:
            self._run_ahead.at_idle(lap.handed_ns, request_ns + host_ns)
        if lap.is_step:
            self._leads_ns.append(lead_ns)


def _percentiles(values_ns: list[int]) -> Percentiles:
    if not values_ns:
        return Percentiles()
    p50, p95, p99 = np.percentile(values_ns, (50, 95, 99)) / 1e6
    return Percentiles(p50=float(p50), p95=float(p95), p99=float(p99))
