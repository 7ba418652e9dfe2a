"""Steps with one known delay each, and what the meter must charge it to.

Stands under `bench.injected` and its tests.  Invariant: a case says what it does through a rig,
and so is the same on a real device and on a virtual one; the truth is the rig's, not the meter's.

In front of each step's first kernel lies one gap, and all of it comes from the injected delay:

    kernels of step n-1 | gap | kernels of step n
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from iopipe.meter.meter import Meter
from iopipe.meter.report import Report
from iopipe.meter.spans import Span
from iopipe.protocols import Cause, Event, Events

STEP_SECONDS = 0.010
NUM_STEPS = 40
_DELAY_SECONDS = 0.004
_STEPS_OF_EPOCH = 10
NUM_TINY = 2000


class Rig(Protocol):
    """A host and a device, real or not."""

    @property
    def events(self) -> Events: ...

    def now_ns(self) -> int:
        """On the host's clock, that of spans."""
        ...

    def work(self, seconds: float) -> None:
        """The host is busy."""
        ...

    def compute(self, seconds: float) -> None:
        """Enqueue one kernel."""
        ...

    def compute_tiny(self, num_kernels: int) -> None:
        """Enqueue so many that the host needs longer to launch each than the device to run it."""
        ...

    def copy_ahead(self) -> Event:
        """Enqueue a copy of pinned memory on a stream of its own; its end."""
        ...

    def copy_here(self) -> None:
        """Copy pageable memory on the step's stream, which holds the host up."""
        ...

    def synchronize(self) -> None:
        """Wait for the device, as `.item()` does."""
        ...

    def gaps_ns(self) -> list[int]:
        """Between the kernels of each step and those of the one before, all enqueued so far."""
        ...

    def end_step(self) -> None:
        """What was enqueued since the last call belongs to one step."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One injected truth."""

    step: Callable[[Rig, Meter, int], None]
    """From behind `enter` to the end of the step."""
    cause: str
    """What all of it is charged to; '' where nothing may be charged to the input."""
    is_behind: bool = False
    """The delay lies behind the hand-off, and so in the next lap."""
    steps_of_epoch: int = NUM_STEPS
    inside: bool = False
    """The idle time is inside the step, where no input can be to blame."""


def _span(cause: Cause, start_ns: int, rig: Rig) -> Sequence[Span]:
    return (Span(str(cause), cause, start_ns, rig.now_ns()),)


def _waits_for(cause: Cause, *, synchronizes: bool) -> Callable[[Rig, Meter, int], None]:
    """The batch is made when it is asked for.  A host that runs ahead hides a part of that: the
    delay is then longer than the step."""

    def step(rig: Rig, meter: Meter, number: int) -> None:
        start_ns = rig.now_ns()
        rig.work(_DELAY_SECONDS if synchronizes else STEP_SECONDS + _DELAY_SECONDS)
        meter.handoff(spans=_span(cause, start_ns, rig), num_samples=1)
        rig.compute(STEP_SECONDS)
        meter.step()
        if synchronizes:
            rig.synchronize()

    return step


def _pinned_copy(rig: Rig, meter: Meter, number: int) -> None:
    ready = rig.copy_ahead()
    meter.handoff(ready=ready, num_samples=1)
    rig.compute(STEP_SECONDS)
    meter.step()
    rig.synchronize()


def _pageable_copy(rig: Rig, meter: Meter, number: int) -> None:
    meter.handoff(num_samples=1)
    rig.copy_here()
    meter.moved()
    rig.compute(STEP_SECONDS)
    meter.step()
    rig.synchronize()


def _user_code(rig: Rig, meter: Meter, number: int) -> None:
    meter.handoff(num_samples=1)
    rig.compute(STEP_SECONDS)
    meter.step()
    rig.synchronize()
    rig.work(_DELAY_SECONDS)


def _slow_launch(rig: Rig, meter: Meter, number: int) -> None:
    meter.handoff(num_samples=1)
    rig.work(_DELAY_SECONDS)
    meter.begin()
    rig.compute(STEP_SECONDS)
    meter.step()
    rig.synchronize()


def _tiny_kernels(rig: Rig, meter: Meter, number: int) -> None:
    meter.handoff(num_samples=1)
    rig.compute(STEP_SECONDS / 50)
    rig.compute_tiny(NUM_TINY)
    rig.compute(STEP_SECONDS / 50)
    meter.step()


def _epoch_boundary(rig: Rig, meter: Meter, number: int) -> None:
    start_ns = rig.now_ns()
    rig.work(2 * _DELAY_SECONDS if number % _STEPS_OF_EPOCH == 0 else 0.0)
    meter.handoff(spans=_span("loader", start_ns, rig), num_samples=1)
    rig.compute(STEP_SECONDS)
    meter.step()
    rig.synchronize()


CASES: Mapping[str, Case] = {
    "loader delay, the host runs ahead": Case(
        step=_waits_for("loader", synchronizes=False), cause="loader"
    ),
    "loader delay, .item() each step": Case(
        step=_waits_for("loader", synchronizes=True), cause="loader"
    ),
    "storage delay": Case(step=_waits_for("storage", synchronizes=True), cause="storage"),
    "decode delay": Case(step=_waits_for("decode", synchronizes=True), cause="decode"),
    "pinned copy, .item() each step": Case(step=_pinned_copy, cause="h2d"),
    "pageable copy in the loop": Case(step=_pageable_copy, cause="h2d", is_behind=True),
    "user code after .item()": Case(step=_user_code, cause="other_host"),
    "slow launch": Case(step=_slow_launch, cause="launch", is_behind=True),
    "thousands of tiny kernels": Case(step=_tiny_kernels, cause="", inside=True),
    "epoch boundary": Case(step=_epoch_boundary, cause="loader", steps_of_epoch=_STEPS_OF_EPOCH),
}


@dataclass(slots=True)
class Laps:
    """What the meter tells of every step: idle nanoseconds by cause."""

    idle: list[Mapping[str, int]] = field(default_factory=list)

    def add(self, started_ns: int, ended_ns: int, causes: Mapping[str, int]) -> None:
        self.idle.append(dict(causes))


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One case: gap by gap what the device did and what the meter said."""

    truth_ns: Sequence[int]
    charged_ns: Sequence[int]
    """To the one cause that is right."""
    elsewhere_ns: Sequence[int]
    """To all others."""
    recoverable_ns: float
    """A step; what an ideal input would save."""
    report: Report


def run_case(case: Case, rig: Rig) -> Outcome:
    """`NUM_STEPS` steps, and what became of the gaps between them."""
    laps = Laps()
    meter = Meter(rig.events, clock=rig.now_ns, history=laps)
    for number in range(NUM_STEPS):
        meter.enter()
        case.step(rig, meter, number)
        rig.end_step()
        if (number + 1) % case.steps_of_epoch == 0:
            meter.finish()
    rig.synchronize()
    truth, idle = rig.gaps_ns(), laps.idle
    report = meter.report()
    idle = laps.idle
    if case.is_behind:
        truth, idle = truth[:-1], idle[1:]
    charged = [one.get(case.cause, 0) for one in idle]
    return Outcome(
        truth_ns=truth,
        charged_ns=charged,
        elsewhere_ns=[sum(one.values()) - right for one, right in zip(idle, charged, strict=True)],
        recoverable_ns=report.recoverable_stall_fraction * report.wall_seconds * 1e9 / NUM_STEPS,
        report=report,
    )
