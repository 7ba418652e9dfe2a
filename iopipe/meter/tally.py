"""What finished laps add up to.

Stands behind the meter's face to the training loop and in front of the report.  Invariant:
every number is on the clock of the compute stream and covers the same laps, those that the
stream has passed; memory does not grow with their number.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

import numpy as np

from iopipe.meter.lead import RunAhead
from iopipe.meter.recording import RecordedStep, Recording
from iopipe.meter.replay import recoverable_ns
from iopipe.meter.report import Percentiles, Step
from iopipe.meter.spans import Span, attribute
from iopipe.protocols import Cause, Event, Events

_IDLE_NS = 20_000
"""A wait above this was idle time: two events back to back on a busy stream lie 1-2 us
apart."""

_MAX_AHEAD = 32
"""Steps; a host that is further ahead is held back by one of these all the same."""
_MERGED_STEPS = 1024
"""A replay covers so many steps at once; its result is added to the others'."""


class History(Protocol):
    """Whoever keeps the course of the run, step by step, for pictures."""

    def add(self, started_ns: int, ended_ns: int, causes: Mapping[str, int]) -> None:
        """One step: nanoseconds since the first batch, pauses left out, and what of it the
        stream stood idle for."""
        ...


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
    moved: Event | None
    """The user's own copies of that batch to the device, where they are marked."""
    begun: Event | None
    """Its first kernel, where it is marked."""
    end: Event | None
    """The step's last kernel, where it was marked."""
    request: Event
    handed: Event
    ready: Event
    request_ns: int
    """On the host's clock, as `handed_ns`."""
    handed_ns: int
    spans: Sequence[Span]
    device_cause: Cause
    """What `ready` came after: a copy, or a decode on the device."""
    take_ns: int
    """The loop's own work of the hand-off."""
    num_samples: int
    """Consumed in this lap: those of the batch before."""

    @property
    def is_step(self) -> bool:
        return self.kind in ("step", "again")

    def spent_events(self) -> list[Event]:
        """Each event once, less the one that the next lap begins with."""
        events = {id(e): e for e in (self.origin, self.request, self.handed, self.ready)}
        marks = (self.moved, self.begun, self.end)
        events |= {id(mark): mark for mark in marks if mark is not None}
        if self.kind != "last":
            del events[id(self.ready)]
        return list(events.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Since the first batch."""

    num_steps: int
    num_samples: int
    wall_ns: int
    stall_ns: int
    causes_ns: Mapping[Cause, int]


class Tally:
    """Running totals over all laps, and the last `max_steps` steps one by one."""

    def __init__(self, events: Events, max_steps: int, histories: Sequence[History] = ()) -> None:
        self._events = events
        self._histories = histories
        self._recording = Recording()
        self._before: _Handoff | None = None
        self._unreplayed: list[RecordedStep] = []
        self._recoverable_ns = 0
        self._ends_ns: deque[int] = deque(maxlen=_MAX_AHEAD)
        self._run_ahead = RunAhead()
        self._leads_ns: deque[int] = deque(maxlen=max_steps)
        # Tuples of plain values: the garbage collector does not look at them again and again.
        self._steps: deque[tuple[int, int, int, Cause]] = deque(maxlen=max_steps)
        self.causes_ns: dict[Cause, int] = {}
        self.first_batch_ns = 0
        self.wall_ns = 0
        self.stall_ns = 0
        self.other_host_ns = 0
        self.launch_ns = 0
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
            self._before = _Handoff(lap, 0, 0)
            return
        step = self._measured_step(lap, before_ns)
        causes = attribute(lap.spans, lap.handed_ns - host_ns, lap.handed_ns)
        _charge(causes, lap.device_cause, device_ns)
        _charge(causes, "h2d", step.moved_ns)
        lead_ns = self._lead_ns(lap, before_ns, host_ns)
        request_ns = self.wall_ns + before_ns
        self._ends_ns.append(request_ns - step.after_ns)
        self._record(lap, step, asked_ns=request_ns - (lead_ns if lead_ns >= _IDLE_NS else 0))
        if lap.is_step:
            self._leads_ns.append(lead_ns)
            self._add_step(before_ns + host_ns + device_ns, causes, step)
        self._before = None if lap.kind == "last" else _Handoff(lap, host_ns, device_ns)
        self.other_host_ns += step.after_ns
        self.launch_ns += step.launch_ns
        for cause, part_ns in causes.items():
            self.causes_ns[cause] = self.causes_ns.get(cause, 0) + part_ns
        self.stall_ns += sum(causes.values())
        self.wall_ns += before_ns + host_ns + device_ns
        self.num_samples += lap.num_samples

    @property
    def recoverable_ns(self) -> int:
        """Of the stall; the steps are replayed some at a time, as they come."""
        rest_ns = recoverable_ns(self._unreplayed)
        return min(self.stall_ns, self._recoverable_ns + rest_ns)

    def recorded(self) -> tuple[RecordedStep, ...]:
        """The last steps, to be replayed under other conditions."""
        return self._recording.steps()

    def totals(self) -> Totals:
        return Totals(
            num_steps=self.num_steps,
            num_samples=self.num_samples,
            wall_ns=self.wall_ns,
            stall_ns=self.stall_ns,
            causes_ns=dict(self.causes_ns),
        )

    def forget_steps(self) -> None:
        """What was recorded so far is not to be replayed together with what comes."""
        self._recording.clear()

    def steps(self) -> tuple[Step, ...]:
        """The last ones, the oldest first."""
        return tuple(
            Step(start_ns=start, duration_ns=duration, stall_ns=stall, cause=cause)
            for start, duration, stall, cause in self._steps
        )

    def step_ms(self) -> Percentiles:
        return _percentiles([duration_ns for _, duration_ns, _, _ in self._steps])

    def stall_ms(self) -> Percentiles:
        return _percentiles([stall_ns for _, _, stall_ns, _ in self._steps])

    def lead_ms(self) -> float:
        return float(np.median(self._leads_ns)) / 1e6 if self._leads_ns else 0.0

    def _measured_step(self, lap: Lap, before_ns: int) -> _Step:
        """The step that ends with the request of this lap, between its marks."""
        if lap.moved is None and lap.begun is None and lap.end is None:
            return _Step(0, 0, before_ns, 0)
        elapsed_ns = self._events.elapsed_ns
        moved = lap.origin if lap.moved is None else lap.moved
        begun = moved if lap.begun is None else lap.begun
        end = lap.request if lap.end is None else lap.end
        return _Step(
            moved_ns=elapsed_ns(lap.origin, moved),
            launch_ns=elapsed_ns(moved, begun),
            busy_ns=elapsed_ns(begun, end),
            after_ns=elapsed_ns(end, lap.request),
        )

    def _record(self, lap: Lap, step: _Step, *, asked_ns: int) -> None:
        """`asked_ns`: the request, where the stream was then."""
        before = self._before
        if before is None:
            return
        ahead, since_ns = self._ahead(asked_ns)
        recorded = RecordedStep(
            wait_ns=before.wait_ns,
            copy_ns=before.copy_ns + step.moved_ns,
            launch_ns=step.launch_ns,
            device_ns=step.busy_ns,
            host_ns=lap.request_ns - before.handed_ns,
            after_ns=step.after_ns,
            steps_ahead=ahead,
            since_ns=since_ns,
            travel_ns=max(0, before.handed_ns - before.spans[-1].end_ns) if before.spans else 0,
            take_ns=before.take_ns,
            num_samples=lap.num_samples,
            spans=before.spans,
        )
        if before.begins_anew:
            self._recording.clear()
        self._recording.add(recorded)
        self._unreplayed.append(recorded)
        if len(self._unreplayed) == _MERGED_STEPS:
            self._recoverable_ns += recoverable_ns(self._unreplayed)
            self._unreplayed.clear()

    def _ahead(self, asked_ns: int) -> tuple[int, int]:
        """How many steps the stream had not ended then, and since when the one before."""
        if self._ends_ns[-1] <= asked_ns:  # as a rule on the host's own clock
            return 0, asked_ns - self._ends_ns[-1]
        for ahead, end_ns in enumerate(reversed(self._ends_ns)):
            if end_ns <= asked_ns:
                return ahead, asked_ns - end_ns
        return len(self._ends_ns), 0

    def _add_step(self, duration_ns: int, causes: dict[Cause, int], step: _Step) -> None:
        self.num_steps += 1
        if self._histories:
            idle: dict[str, int] = {str(cause): part for cause, part in causes.items()}
            if step.launch_ns:
                idle["launch"] = step.launch_ns
            if step.after_ns:
                idle["other_host"] = step.after_ns
            for history in self._histories:
                history.add(self.wall_ns, self.wall_ns + duration_ns, idle)
        most: Cause = max(causes, key=causes.__getitem__) if causes else "queue"
        self._steps.append((self.wall_ns, duration_ns, sum(causes.values()), most))

    def _lead_ns(self, lap: Lap, before_ns: int, host_ns: int) -> int:
        request_ns = self.wall_ns + before_ns
        if lap.kind == "again":
            self._run_ahead.restart(lap.request_ns, request_ns)
        lead_ns = self._run_ahead.at_request(lap.request_ns, request_ns)
        if host_ns > _IDLE_NS:
            self._run_ahead.at_idle(lap.handed_ns, request_ns + host_ns)
        return lead_ns


@dataclass(slots=True)
class _Step:
    """What a step consists of, on the stream's clock."""

    moved_ns: int
    launch_ns: int
    busy_ns: int
    after_ns: int


class _Handoff:
    """The hand-off before a step, until the step is over."""

    __slots__ = ("begins_anew", "copy_ns", "handed_ns", "spans", "take_ns", "wait_ns")

    def __init__(self, lap: Lap, wait_ns: int, copy_ns: int) -> None:
        self.wait_ns = wait_ns
        self.copy_ns = copy_ns
        self.handed_ns = lap.handed_ns
        self.spans = tuple(lap.spans)
        self.take_ns = lap.take_ns
        self.begins_anew = lap.kind != "step"


def _charge(causes: dict[Cause, int], cause: Cause, part_ns: int) -> None:
    if part_ns:
        causes[cause] = causes.get(cause, 0) + part_ns


def _percentiles(values_ns: list[int]) -> Percentiles:
    if not values_ns:
        return Percentiles()
    p50, p95, p99 = np.percentile(values_ns, (50, 95, 99)) / 1e6
    return Percentiles(p50=float(p50), p95=float(p95), p99=float(p99))
