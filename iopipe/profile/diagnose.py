"""`iopipe diagnose`: controlled runs that find the starvation without the meter.

Stands behind the command line, beside `profile`.  Invariant: the estimates of the runs come
from their lengths alone; where they and the meter disagree, the result says so instead of
choosing.

    compute only   one batch, used again and again: what the step takes at best
    with copies    ... copied to the device each time
    with loader    the real thing, metered
    loader only    batches taken as fast as they come, after the prefetched ones
    k steps        every batch used k times: the length is max(input, k times the step), and
                   its knee gives both
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from iopipe.errors import PipelineError
from iopipe.meter.meter import Meter
from iopipe.meter.report import Report
from iopipe.protocols import Events

_AGREEMENT = 0.05
"""Estimates further apart than this share of the time do not agree."""
_COMPUTE_BOUND = 0.9
"""Twice the steps take this much of twice the time: the step is what limits."""
_MAX_STEPS_A_BATCH = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is diagnosed."""

    batches: Callable[[], Iterator[Any]]
    """A new iteration; should it end, another one is begun."""
    step: Callable[[Any], None]
    """One training step on a batch, as it was handed over."""
    move: Callable[[Any], Any] | None = None
    """The script's own copy to the device; None: batches arrive where they are used."""
    synchronize: Callable[[], None] = lambda: None
    """Waits for the device, at the ends of a run only."""
    events: Callable[[], Events | None] = lambda: None
    """The clock of the metered run; None: the host's."""
    clock: Callable[[], int] = time.perf_counter_ns


@dataclass(frozen=True, slots=True, kw_only=True)
class Length:
    """A run, a step."""

    name: str
    milliseconds: float
    """A step, or a batch where there is no step: the median over rounds."""
    spread: float
    """Largest over smallest of the rounds, less 1; near 0: nothing disturbed them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """What the runs say, what the meter says, and whether they agree."""

    lengths: tuple[Length, ...]
    estimates: Mapping[str, float] = field(default_factory=dict)
    """Starved share of the time, by 'meter', 'runs', 'loader' and 'k steps'."""
    report: Report
    """Of the metered run; `low_confidence` says why it should not be trusted."""

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": 1,
            "lengths": [asdict(length) for length in self.lengths],
            "estimates": dict(self.estimates),
            "report": self.report.to_json(),
        }

    def __str__(self) -> str:
        lines = [self.report.verdict]
        lines += [f"  {one.name}: {one.milliseconds:.2f} ms" for one in self.lengths]
        lines += [f"  starved by {name}: {100 * s:.1f} %" for name, s in self.estimates.items()]
        return "\n".join(lines)


def diagnose(
    subject: Subject, *, num_steps: int = 100, num_warm_up: int = 20, num_rounds: int = 2
) -> Diagnosis:
    """Make the runs in turns, `num_rounds` times, and compare them.

    Every run does `num_steps` steps after `num_warm_up` that count for nothing; those must
    be more than what the loader prefetches.
    """
    if num_steps < 2 or num_rounds < 1 or num_warm_up < 1:
        raise PipelineError(
            f"num_steps is {num_steps}, num_warm_up {num_warm_up}, num_rounds {num_rounds}: give "
            "at least 2, 1 and 1"
        )
    runs = _Runs(subject, num_steps, num_warm_up)
    rounds: dict[str, list[float]] = {}
    reports = []
    for _ in range(num_rounds):
        for name, length_ms in runs.one_round():
            rounds.setdefault(name, []).append(length_ms)
        reports.append(runs.report)
    knee_ms = runs.knee_ms()
    lengths = tuple(_length(name, values) for name, values in rounds.items())
    taken = {length.name: length.milliseconds for length in lengths}
    # The middle one by what the meter said: one run that was disturbed decides nothing.
    report = sorted(reports, key=lambda one: one.attributed_stall_fraction)[len(reports) // 2]
    estimates = _estimates(taken, report, knee_ms)
    doubt = _doubt(estimates, lengths)
    return Diagnosis(
        lengths=lengths, estimates=estimates, report=replace(report, low_confidence=doubt)
    )


def _length(name: str, values: list[float]) -> Length:
    least = max(min(values), 1e-9)
    return Length(name=name, milliseconds=statistics.median(values), spread=max(values) / least - 1)


def _estimates(taken: Mapping[str, float], report: Report, knee_ms: float) -> dict[str, float]:
    """The starved share of the real run, found in four ways."""
    real = taken["with loader"]
    at_best = taken.get("with copies", taken["compute only"])
    return {
        "meter": report.attributed_stall_fraction,
        "runs": _share(at_best, real),
        "loader": _share(at_best, max(at_best, taken["loader only"])),
        "k steps": _share(knee_ms, real),
    }


def _share(at_best: float, real: float) -> float:
    return max(0.0, 1 - at_best / real) if real else 0.0


def _doubt(estimates: Mapping[str, float], lengths: tuple[Length, ...]) -> str:
    """Why the meter should not be trusted; empty where all agree."""
    meter = estimates["meter"]
    doubts = [
        f"{name} gives {100 * value:.1f} % where the meter gives {100 * meter:.1f} %"
        f"{_explanation(name, value - meter)}"
        for name, value in estimates.items()
        if abs(value - meter) > _AGREEMENT
    ]
    doubts += [
        f"{length.name} differed by {100 * length.spread:.0f} % between its rounds"
        for length in lengths
        if length.spread > 2 * _AGREEMENT
    ]
    return "; ".join(doubts)


def _explanation(name: str, difference: float) -> str:
    if name in ("runs", "k steps") and difference > 0:
        return " (the input slows the step without stopping it: cores or memory are shared)"
    if name == "loader" and difference > 0:
        return " (the loader is slower by itself than beside the step: caches, or a quiet core)"
    if name == "loader":
        return " (the loader is slower beside the step than by itself: cores are shared)"
    return ""


class _Runs:
    """The controlled runs, on one iteration after the other."""

    def __init__(self, subject: Subject, num_steps: int, num_warm_up: int) -> None:
        self._subject = subject
        self._num_steps = num_steps
        self._num_warm_up = num_warm_up
        self.report = Report()

    def one_round(self) -> Iterator[tuple[str, float]]:
        subject = self._subject
        batch = next(self._batches())
        moved = batch if subject.move is None else subject.move(batch)
        yield "compute only", self._timed(lambda: subject.step(moved))
        if subject.move is not None:
            move = subject.move
            yield "with copies", self._timed(lambda: subject.step(move(batch)))
        yield "with loader", self._metered()
        batches = self._batches()
        yield "loader only", self._timed(lambda: next(batches))

    def knee_ms(self) -> float:
        """A step's own length: batches are used more and more often, until twice as often
        takes twice as long."""
        repeats, before = 1, self._repeated(1)
        while repeats < _MAX_STEPS_A_BATCH:
            repeats *= 2
            now = self._repeated(repeats)
            if now >= 2 * before * _COMPUTE_BOUND:
                return now / repeats
            before = now
        return before / repeats

    def _repeated(self, repeats: int) -> float:
        batches = self._batches()

        def one_batch() -> None:
            batch = self._moved(next(batches))
            for _ in range(repeats):
                self._subject.step(batch)

        return self._timed(one_batch, share=repeats)

    def _timed(self, work: Callable[[], object], *, share: int = 1) -> float:
        """Milliseconds that each `work` takes; with a `share`, of so many fewer of them."""
        subject = self._subject
        for _ in range(self._num_warm_up):
            work()
        subject.synchronize()
        start_ns = subject.clock()
        num_times = max(2, self._num_steps // share)
        for _ in range(num_times):
            work()
        subject.synchronize()
        return (subject.clock() - start_ns) / 1e6 / num_times

    def _metered(self) -> float:
        subject = self._subject
        batches = self._batches()
        for _ in range(self._num_warm_up):
            subject.step(self._moved(next(batches)))
        meter = Meter(subject.events(), clock=subject.clock)
        subject.synchronize()
        start_ns = subject.clock()
        for number, batch in enumerate(meter.watch(batches), 1):
            moved = self._moved(batch)
            if subject.move is not None:
                meter.moved()
            subject.step(moved)
            meter.step()
            if number == self._num_steps:
                break
        subject.synchronize()
        length_ns = subject.clock() - start_ns
        self.report = meter.report()
        return length_ns / 1e6 / self._num_steps

    def _moved(self, batch: Any) -> Any:
        return batch if self._subject.move is None else self._subject.move(batch)

    def _batches(self) -> Iterator[Any]:
        """Batches without end."""
        while True:
            num_batches = 0
            for batch in self._subject.batches():
                num_batches += 1
                yield batch
            if not num_batches:
                raise PipelineError("the pipeline gives no batches: there is nothing to diagnose")
