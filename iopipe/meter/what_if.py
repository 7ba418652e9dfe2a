"""What a change of the input would bring, before anybody makes it.

Stands between the replay and the report.  Invariant: a prediction is the measured rate times
the ratio of two replays of the same steps, with an interval; none lies above the limit that
the cores set, and no interval further above it than two runs differ anyway.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from iopipe.meter.loader_model import LoaderModel, Production, StageModel
from iopipe.meter.recording import RecordedStep
from iopipe.meter.replay import replay
from iopipe.meter.report import WhatIf

_NUM_RESAMPLES = 200
_NUM_BLOCKS = 24
_PREFETCH = 2
"""torch's own, for each worker."""
_MIN_STEPS = 48
"""Two steps a block; with less there is no spread to speak of."""
_NEARLY = 0.99
"""Of what twice the threads bring: fewer of them are as good."""
_DISTURBANCE = 0.03
"""How far two runs of the same thing lie apart, as a rule."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What would be different."""

    name: str
    work: Mapping[str, float] = field(default_factory=dict)
    """Cause -> the share of its work that is left."""
    threads: Mapping[str, float] = field(default_factory=dict)
    """Cause -> how many times as many threads the stages have that do its work."""
    depth: int | None = None
    """Batches that are kept ready, for each worker or behind the last stage."""
    is_estimate: bool = False
    """The change has a price that was not measured: the interval reaches down to today."""


CHANGES = (
    Change(name="2x faster storage", work={"storage": 0.5}),
    Change(name="2x decode threads", threads={"decode": 2.0}),
    Change(name="cached", work={"storage": 0.0}),
    Change(name="GPU decode", work={"decode": 0.0}, is_estimate=True),
    Change(name="prefetch 8", depth=8),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the machine has, and what a sample takes of it."""

    cores: float = 0.0
    """That this process may use, a quota of its container included; 0: unknown."""
    cpu_seconds_per_sample: float = 0.0
    """Of all processes that take part, the training step included."""
    scaling: Mapping[float, float] = field(default_factory=dict)
    """Measured: times as many threads -> times as many samples/s of the loader by itself."""


def what_if(
    steps: Sequence[RecordedStep],
    model: LoaderModel,
    *,
    causes: Mapping[str, float],
    limits: Limits | None = None,
    changes: Sequence[Change] = CHANGES,
) -> tuple[WhatIf, ...]:
    """What each change would bring; empty where too few steps are known, or no spans.

    `causes`: the measured stall as fractions of the wall time, for the bound 1 / (1 - s).
    The interval covers 95 % of block-bootstrap resamples, the misfit of the replay to what was
    measured, a disturbance of 3 %, and that nobody knows which part of a batch's way to the
    loop is the loop's own work.  Assumed: service times do not depend on the change; where
    threads contend, `limits` says how far they scale.
    """
    services = model.services(steps)
    skipped = _warm_up(model)
    if len(steps) - skipped < _MIN_STEPS or not any(map(any, services)):
        return ()
    measured = [_lap_ns(step) for step in steps]
    takes = _takes_ns(steps, model)
    base = _laps(steps, model, services, take_ns=takes[0])
    num_samples = sum(step.num_samples for step in steps[skipped:])

    def predicted(change: Change) -> WhatIf:
        changed = _changed(model, change, services)
        work = _scaled(services, change)
        fast, slow = (_laps(steps, changed, work, take_ns=ns)[skipped:] for ns in takes)
        rates = _rates(measured[skipped:], base[skipped:], (fast, slow), num_samples)
        now = num_samples * 1e9 / max(1, sum(measured[skipped:]))
        ceiling = _ceiling(change, services, limits or Limits(), num_samples, skipped, now)
        return _prediction(change, rates, now=now, ceiling=ceiling, causes=causes)

    found = []
    for change in changes:
        if _applies(change, services):
            found.append(predicted(change))
            found += _with_fewer_threads(change, found[-1], model, services, predicted)
    return tuple(found)


def _with_fewer_threads(
    change: Change,
    whole: WhatIf,
    model: LoaderModel,
    services: list[list[dict[str, int]]],
    predicted: Callable[[Change], WhatIf],
) -> list[WhatIf]:
    """The fewest more threads that bring nearly what all of `change` would; none where it takes
    all of them, or several stages do that work."""
    causes = change.threads.keys()
    counts = [
        stage.threads
        for stage, batches in zip(model.stages, services, strict=True)
        if any(causes & parts.keys() for parts in batches)
    ]
    if len(causes) != 1 or len(counts) != 1:
        return []
    (cause, factor), threads = next(iter(change.threads.items())), counts[0]
    low, high, best = 1, round(threads * factor) - threads, None
    while low < high:
        middle = (low + high) // 2
        more = {cause: (threads + middle) / threads}
        plural = "s" if middle > 1 else ""
        name = f"{middle} more {cause} thread{plural}"
        found = predicted(replace(change, name=name, threads=more))
        if found.samples_per_second >= _NEARLY * whole.samples_per_second:
            high, best = middle, found
        else:
            low = middle + 1
    return [] if best is None else [best]


@dataclass(frozen=True, slots=True)
class _Rates:
    mean: float
    low: float
    high: float


def _rates(
    measured: Sequence[int],
    base: Sequence[int],
    changed: tuple[Sequence[int], Sequence[int]],
    num_samples: int,
) -> _Rates:
    """Samples/s after the change, with an interval; `changed` at best and at worst."""
    size = len(measured) // _NUM_BLOCKS
    columns = [_blocks(laps, size) for laps in (measured, base, *changed)]
    covered = num_samples * size * _NUM_BLOCKS / len(measured)
    mean = _rate([sum(column) for column in columns[:3]], covered)
    best, worst = _resampled(columns, covered)
    misfit = abs(sum(base) / max(1, sum(measured)) - 1)
    slack = _DISTURBANCE + misfit
    low, high = worst[_NUM_RESAMPLES // 40], best[-1 - _NUM_RESAMPLES // 40]
    return _Rates(mean, low * (1 - min(slack, 0.9)), high * (1 + slack))


def _blocks(laps: Sequence[int], size: int) -> list[int]:
    return [sum(laps[first * size : (first + 1) * size]) for first in range(_NUM_BLOCKS)]


def _resampled(columns: list[list[int]], num_samples: float) -> tuple[list[float], list[float]]:
    """Sorted rates of block-bootstrap resamples, at best and at worst."""
    draws = random.Random(len(columns[0]))
    best, worst = [], []
    for _ in range(_NUM_RESAMPLES):
        rows = draws.choices(range(_NUM_BLOCKS), k=_NUM_BLOCKS)
        measured, base, fast, slow = (sum(column[row] for row in rows) for column in columns)
        best.append(_rate([measured, base, fast], num_samples))
        worst.append(_rate([measured, base, slow], num_samples))
    return sorted(best), sorted(worst)


def _rate(lengths_ns: list[int], num_samples: float) -> float:
    """`lengths_ns`: as measured, replayed, and replayed with the change."""
    measured_ns, base_ns, changed_ns = lengths_ns
    return num_samples * 1e9 / max(1, measured_ns) * base_ns / max(1, changed_ns)


# ---- replays -------------------------------------------------------------------------


def _laps(
    steps: Sequence[RecordedStep],
    model: LoaderModel,
    services: list[list[dict[str, int]]],
    *,
    take_ns: int,
) -> list[int]:
    times = [[sum(parts.values()) for parts in stage] for stage in services]
    production = Production(model, times, travel_ns=_travel_ns(steps), take_ns=take_ns)
    ends = [end for _, end in replay(steps, production.ready)]
    return [end - start for start, end in zip([0, *ends], ends, strict=False)]


def _takes_ns(steps: Sequence[RecordedStep], model: LoaderModel) -> tuple[int, int]:
    """What the loop itself has to do for a batch that is there, at least and at most: of the
    way of a batch that was waited for nobody knows which part the loop had to go."""
    least = round(statistics.median(step.take_ns for step in steps))
    made_in_the_loop = model.window == 0
    return least, least if made_in_the_loop else max(least, _travel_ns(steps))


def _travel_ns(steps: Sequence[RecordedStep]) -> int:
    """Of a batch that was done while it was waited for, as a rule; a faster loader does not
    shorten it.  One that was done before lay behind another one."""
    travels = [step.travel_ns for step in steps if step.travel_ns < step.wait_ns]
    return round(statistics.median(travels)) if travels else 0


def _lap_ns(step: RecordedStep) -> int:
    return step.wait_ns + step.copy_ns + step.launch_ns + step.device_ns + step.after_ns


def _warm_up(model: LoaderModel) -> int:
    """Batches that were begun before the first step that is known."""
    rooms = sum((stage.room or 0) // stage.chunks + 1 for stage in model.stages)
    return rooms + (model.window or 0)


def _applies(change: Change, services: list[list[dict[str, int]]]) -> bool:
    wanted = {*change.work, *change.threads}
    return not wanted or any(wanted & parts.keys() for stage in services for parts in stage)


def _scaled(services: list[list[dict[str, int]]], change: Change) -> list[list[dict[str, int]]]:
    return [
        [
            {cause: round(part * change.work.get(cause, 1.0)) for cause, part in parts.items()}
            for parts in stage
        ]
        for stage in services
    ]


def _changed(
    model: LoaderModel, change: Change, services: list[list[dict[str, int]]]
) -> LoaderModel:
    stages = [
        _more_threads(stage, change, {cause for parts in batches for cause in parts})
        for stage, batches in zip(model.stages, services, strict=True)
    ]
    window = model.window
    if window is not None:
        window = window * stages[0].threads // model.stages[0].threads
    if window == 0 and change.threads:
        window = _PREFETCH * stages[0].threads  # workers in place of the loop's own thread
    if change.depth is not None and window is not None:
        window = max(window, change.depth * stages[0].threads)
    elif change.depth is not None:
        deeper = max(change.depth * stages[-1].chunks, stages[-1].room or 0)
        stages[-1] = replace(stages[-1], room=deeper)
    return LoaderModel(stages=tuple(stages), window=window)


def _more_threads(stage: StageModel, change: Change, causes: set[str]) -> StageModel:
    factor = max((change.threads.get(cause, 1.0) for cause in causes), default=1.0)
    added = round(stage.threads * factor) - stage.threads
    room = None if stage.room is None else stage.room + added
    return replace(stage, threads=stage.threads + added, room=room)


# ---- limits --------------------------------------------------------------------------


def _ceiling(
    change: Change,
    services: list[list[dict[str, int]]],
    limits: Limits,
    num_samples: int,
    skipped: int,
    now: float,
) -> float:
    """Samples/s that the cores, and the scaling that was measured, leave room for."""
    ceilings = []
    if limits.cores and limits.cpu_seconds_per_sample:
        saved_ns = sum(
            part * (1 - change.work[cause])
            for stage in services
            for parts in stage[skipped:]
            for cause, part in parts.items()
            if cause in change.work and cause != "storage"  # waiting takes no core
        )
        taken = limits.cpu_seconds_per_sample - saved_ns / 1e9 / max(1, num_samples)
        ceilings.append(limits.cores / max(taken, limits.cpu_seconds_per_sample / 100))
    factor = max(change.threads.values(), default=1.0)
    measured = [times for times in limits.scaling if times >= factor > 1]
    if measured:  # fewer threads bring no more than those that were tried
        ceilings.append(now * limits.scaling[min(measured)])
    # What was measured is possible, whatever the accounts say.
    return max(now, min(ceilings)) if ceilings else float("inf")


def _prediction(
    change: Change, rates: _Rates, *, now: float, ceiling: float, causes: Mapping[str, float]
) -> WhatIf:
    low = min(rates.low, ceiling * (1 - 2 * _DISTURBANCE))
    if change.is_estimate:
        low = min(low, now * (1 - _DISTURBANCE))
    return WhatIf(
        change=change.name,
        now=now,
        samples_per_second=min(rates.mean, ceiling),
        low=low,
        high=max(min(rates.high, ceiling * (1 + _DISTURBANCE)), low),
        bound=now / max(1e-3, 1 - _removed(change, causes)),
    )


def _removed(change: Change, causes: Mapping[str, float]) -> float:
    """The share of the wall time that the change removes, were nothing else in the way."""
    if change.depth is not None:
        return sum(causes.values())
    by_work = sum(causes.get(cause, 0.0) * (1 - left) for cause, left in change.work.items())
    return by_work + sum(
        causes.get(cause, 0.0) * (1 - 1 / factor) for cause, factor in change.threads.items()
    )
