"""Measures windows of steps, asks the policy, and turns the knobs of a running loader.

Stands in the consumer's thread, called after every batch.  Invariant: a window holds steps of one
setting only: those right after a change, which still come out of the old one's buffers, count
for nothing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from iopipe.autotune.budget import Budget
from iopipe.autotune.measurement import Measurement, relative_error
from iopipe.autotune.policy import Decision, Policy
from iopipe.autotune.setting import Knob, Setting, Values
from iopipe.meter.tally import Totals

_log = logging.getLogger(__name__)

_MIN_STEPS = 8
_MIN_SECONDS = 0.1
_SETTLED_FACTOR = 2
"""So many times as long are windows while nothing is tried."""
_MAX_DECISIONS = 1000
"""Kept of them; a run without end may make more."""


@dataclass(frozen=True, slots=True)
class Work:
    """What the threads behind one knob have done so far."""

    busy_seconds: float
    core_seconds: float


class Knobs(Protocol):
    """The running loader, as the tuner sees it."""

    def all(self) -> tuple[Knob, ...]: ...

    def values(self) -> dict[str, int]: ...

    def turn(self, values: Values) -> None:
        """Set them all, now; batches and their order stay what they are."""
        ...

    def needs(self, values: Values) -> Mapping[str, int]:
        """Bytes of each resource that values would take, judged by the batches so far."""
        ...

    def work(self) -> Mapping[str, Work]:
        """Of each knob that has threads."""
        ...

    def core_seconds(self) -> float:
        """Spent on cores by everything that takes part, the training step included."""
        ...

    def steps_in_flight(self) -> int:
        """Batches that may have been made before what is turned now shows."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """What a tuner has found so far."""

    setting: Setting
    is_settled: bool
    num_steps: int
    decisions: tuple[tuple[int, Decision], ...] = field(default=())
    """Each with the step after which it was made."""

    def to_json(self) -> list[dict[str, Any]]:
        """The decisions as plain values."""
        return [{"step": step, **asdict(decision)} for step, decision in self.decisions]

    def __str__(self) -> str:
        lines = [f"step {step}: {decision}" for step, decision in self.decisions]
        values = ", ".join(f"{name} {value}" for name, value in self.setting.values.items())
        return "\n".join([*lines, f"{'settled on' if self.is_settled else 'so far'}: {values}"])


class Tuner:
    """For one run; `step` is for the thread that takes the batches."""

    def __init__(
        self,
        knobs: Knobs,
        totals: Callable[[], Totals],
        *,
        budget: Budget,
        shape: Mapping[str, Any] | None = None,
        clock: Callable[[], float] = time.perf_counter,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        """`totals`: of the meter that watches the same batches."""
        self._knobs = knobs
        self._totals = totals
        self._shape = shape or {}
        self._clock = clock
        self._on_change = on_change
        self._policy = Policy(knobs.all(), knobs.values(), budget=budget, needs=knobs.needs)
        self._decisions: list[tuple[int, Decision]] = []
        self._num_steps = 0
        self._num_skipped = 2
        """Steps that still count for nothing: at first those that wait for threads to start."""
        self._last = 0.0
        self._lengths: list[float] = []
        self._start: _Moment | None = None

    def step(self) -> None:
        """A batch was handed over."""
        self._num_steps += 1
        now = self._clock()
        if self._start is None:
            self._num_skipped -= 1
            if self._num_skipped < 0:
                self._begin(now)
            return
        self._lengths.append(now - self._last)
        self._last = now
        factor = _SETTLED_FACTOR if self._policy.is_settled else 1
        if len(self._lengths) < factor * _MIN_STEPS or now - self._start.at < factor * _MIN_SECONDS:
            return
        end = self._moment(now)
        if not _num_consumed(self._start.totals, end.totals):
            return  # the device has not passed these steps yet
        self._decide(self._measured(self._start, end))

    def pause(self) -> None:
        """Another iteration begins: its first steps, for which workers may start, and the window
        that it cuts off count for nothing."""
        self._start, self._num_skipped = None, self._knobs.steps_in_flight()

    def found(self) -> Tuning:
        """The setting that is best so far, and how it came about."""
        return Tuning(
            setting=Setting(values=dict(self._policy.kept), shape=dict(self._shape)),
            is_settled=self._policy.is_settled,
            num_steps=self._num_steps,
            decisions=tuple(self._decisions),
        )

    def _decide(self, measured: Measurement) -> None:
        before = dict(self._policy.values)
        for decision in self._policy.observe(measured):
            _log.info("after %d steps: %s", self._num_steps, decision)
            self._decisions = [*self._decisions[1 - _MAX_DECISIONS :], (self._num_steps, decision)]
        if self._policy.values == before:
            self._begin(self._last)
            return
        self._num_skipped = self._knobs.steps_in_flight()
        self._knobs.turn(self._policy.values)
        self._on_change()
        self._start = None

    def _begin(self, now: float) -> None:
        self._start, self._last = self._moment(now), now
        self._lengths.clear()

    def _moment(self, now: float) -> _Moment:
        return _Moment(now, self._totals(), self._knobs.work(), self._knobs.core_seconds())

    def _measured(self, start: _Moment, end: _Moment) -> Measurement:
        first, last = start.totals, end.totals
        wall_ns, seconds = last.wall_ns - first.wall_ns, end.at - start.at
        causes = {
            str(name): (part - first.causes_ns.get(name, 0)) / wall_ns
            for name, part in last.causes_ns.items()
        }
        values = self._policy.values
        busy, on_core = {}, {}
        for name, work in end.work.items():
            worked = work.busy_seconds - start.work[name].busy_seconds
            busy[name] = worked / (values[name] * seconds)
            core = work.core_seconds - start.work[name].core_seconds
            on_core[name] = min(1.0, core / worked) if worked > 0 else 1.0
        return Measurement(
            num_steps=len(self._lengths),
            rate=_num_consumed(first, last) * 1e9 / wall_ns,
            error=relative_error(self._lengths),
            starved=(last.stall_ns - first.stall_ns) / wall_ns,
            causes=causes,
            busy=busy,
            on_core=on_core,
            cores=(end.core_seconds - start.core_seconds) / seconds,
        )


@dataclass(frozen=True, slots=True)
class _Moment:
    at: float
    totals: Totals
    work: Mapping[str, Work]
    core_seconds: float


def _num_consumed(first: Totals, last: Totals) -> int:
    """Samples; batches where the meter cannot count what is in them."""
    if last.num_samples:
        return last.num_samples - first.num_samples
    return last.num_steps - first.num_steps
