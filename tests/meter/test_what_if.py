"""Predictions, against the same loader with other random draws and the change really made."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest
from fakes.device import MS

from iopipe.meter.loader_model import LoaderModel, Production, model_of_workers
from iopipe.meter.recording import RecordedStep
from iopipe.meter.report import Report, WhatIf
from iopipe.meter.spans import Span
from iopipe.meter.what_if import Limits, what_if

NUM_STEPS = 3000
STEP = 10 * MS

Draw = Callable[[random.Random], tuple[int, int]]
"""(storage, decode) of one batch."""


def _run(model: LoaderModel, draw: Draw, *, seed: int) -> list[RecordedStep]:
    """A loop on the host thread, fed by the model's threads; what a meter would record."""
    draws = random.Random(seed)
    times = [draw(draws) for _ in range(NUM_STEPS)]
    production = Production(model, [[sum(pair) for pair in times]])
    ask, steps = 0, []
    for number, (storage, decode) in enumerate(times):
        handed = production.ready(number, ask)
        spans = (
            Span("worker", "storage", 0, storage),
            Span("worker", "decode", storage, storage + decode),
        )
        steps.append(_recorded(handed - ask, spans))
        ask = handed + STEP
    return steps


def _recorded(wait_ns: int, spans: tuple[Span, ...]) -> RecordedStep:
    return RecordedStep(
        wait_ns=wait_ns, copy_ns=0, launch_ns=0, device_ns=STEP, host_ns=STEP, after_ns=0,
        steps_ahead=0, since_ns=0, travel_ns=0, take_ns=0, num_samples=8, spans=spans,
    )  # fmt: skip


def _rate(steps: list[RecordedStep]) -> float:
    length_ns = sum(step.wait_ns + step.device_ns for step in steps)
    return 1e9 * sum(step.num_samples for step in steps) / length_ns


def _causes(steps: list[RecordedStep]) -> dict[str, float]:
    length_ns = sum(step.wait_ns + step.device_ns for step in steps)
    return {"storage": sum(step.wait_ns for step in steps) / length_ns}


def _predicted(
    model: LoaderModel, draw: Draw, limits: Limits | None = None
) -> tuple[float, dict[str, WhatIf]]:
    steps = _run(model, draw, seed=1)
    found = what_if(steps, model, causes=_causes(steps), limits=limits)
    return _rate(steps), {one.change: one for one in found}


def _constant(storage_ms: float, decode_ms: float) -> Draw:
    return lambda draws: (round(storage_ms * MS), round(decode_ms * MS))


def _bursts(storage_ms: float, decode_ms: float) -> Draw:
    return lambda draws: (
        round(draws.expovariate(1 / storage_ms) * MS),
        round(draws.lognormvariate(0, 0.5) * decode_ms * MS),
    )


WORKERS = model_of_workers(2, 2)


@pytest.mark.parametrize(
    ("draw", "changes"),
    [
        (_constant(20, 10), ("2x faster storage", "2x decode threads", "cached", "GPU decode")),
        (_bursts(14, 6), ("2x faster storage", "2x decode threads", "cached", "prefetch 8")),
        (_bursts(4, 24), ("2x faster storage", "2x decode threads", "cached", "GPU decode")),
        (_bursts(8, 9), ("2x faster storage", "2x decode threads", "prefetch 8")),
    ],
)
def test_the_outcome_lies_in_the_interval(draw: Draw, changes: tuple[str, ...]) -> None:
    _, found = _predicted(WORKERS, draw)
    for change in changes:
        outcome = _rate(_outcome(change, draw))
        assert found[change].low <= outcome <= found[change].high, (change, outcome, found[change])


def _outcome(change: str, draw: Draw) -> list[RecordedStep]:
    """The run with the change made, and other random numbers."""
    model, changed = WORKERS, draw
    if change == "2x decode threads":
        model = model_of_workers(4, 2)
    elif change == "prefetch 8":
        model = model_of_workers(2, 8)
    else:
        left = {"2x faster storage": (0.5, 1.0), "cached": (0.0, 1.0), "GPU decode": (1.0, 0.0)}

        def changed(draws: random.Random) -> tuple[int, int]:
            storage, decode = draw(draws)
            return round(storage * left[change][0]), round(decode * left[change][1])

    return _run(model, changed, seed=2)


def test_bursts_are_seen_where_the_mean_rate_sees_none() -> None:
    """At 9 of 10 ms on average a loader is fast enough, and starves its step by its bursts."""
    draw = _bursts(6, 3 / 1.1331)  # the lognormal's own mean is exp(0.125)
    now, found = _predicted(model_of_workers(1, 2), draw)
    deeper = _rate(_run(model_of_workers(1, 8), draw, seed=2))
    assert deeper / now > 1.05
    assert found["prefetch 8"].low <= deeper <= found["prefetch 8"].high


def test_no_number_lies_above_what_the_cores_allow() -> None:
    now, found = _predicted(WORKERS, _constant(0.001, 40))
    assert found["2x decode threads"].samples_per_second == pytest.approx(2 * now, rel=0.02)
    limits = Limits(cores=2, cpu_seconds_per_sample=2 / (1.2 * now))
    _, capped = _predicted(WORKERS, _constant(0.001, 40), limits)
    assert capped["2x decode threads"].samples_per_second == pytest.approx(1.2 * now, rel=0.01)
    assert capped["2x decode threads"].high == pytest.approx(1.03 * 1.2 * now, rel=0.01)
    assert capped["2x decode threads"].low < 1.2 * now
    measured = Limits(scaling={2.0: 1.5})
    _, scaled = _predicted(WORKERS, _constant(0.001, 40), measured)
    assert scaled["2x decode threads"].samples_per_second == pytest.approx(1.5 * now, rel=0.01)


def test_a_price_that_was_not_measured_widens_the_interval_to_today() -> None:
    now, found = _predicted(WORKERS, _constant(5, 30))
    assert found["GPU decode"].low <= now < found["GPU decode"].samples_per_second


def test_the_bound_is_one_over_what_is_left() -> None:
    steps = _run(WORKERS, _constant(30, 0.001), seed=1)
    stall = _causes(steps)["storage"]
    found = {one.change: one for one in what_if(steps, WORKERS, causes=_causes(steps))}
    assert found["cached"].bound == pytest.approx(_rate(steps) / (1 - stall), rel=0.01)
    assert found["2x faster storage"].bound == pytest.approx(
        _rate(steps) / (1 - stall / 2), rel=0.01
    )


def test_nothing_is_predicted_from_too_little() -> None:
    steps = _run(WORKERS, _constant(20, 10), seed=1)
    assert what_if(steps[:40], WORKERS, causes={}) == ()
    blind = [replace(step, spans=()) for step in steps]
    assert what_if(blind, WORKERS, causes={}) == ()
    no_decode = [replace(step, spans=step.spans[:1]) for step in steps]
    assert {one.change for one in what_if(no_decode, WORKERS, causes={})} == {
        "2x faster storage",
        "cached",
        "prefetch 8",
    }


def test_the_fewest_threads_that_are_enough_are_named() -> None:
    """8 workers of 105 ms a batch give one every 13.1 ms; the step takes 10: 11 are enough."""
    now, found = _predicted(model_of_workers(8, 2), _constant(5, 100))
    few, twice = found["3 more decode threads"], found["2x decode threads"]
    assert few.samples_per_second == pytest.approx(twice.samples_per_second, rel=0.01)
    assert few.samples_per_second == pytest.approx(1.31 * now, rel=0.01)
    steps = _run(model_of_workers(8, 2), _constant(5, 100), seed=1)
    report = Report(
        num_steps=len(steps),
        samples_per_second=now,
        attributed_stall_fraction=0.24,
        causes={"decode": 0.24},
        what_if=tuple(found.values()),
    )
    assert "3 more decode threads: predicted 1.3" in report.verdict


def test_where_all_of_them_are_needed_no_fewer_are_named() -> None:
    _, found = _predicted(model_of_workers(2, 2), _constant(1, 39))
    assert not [name for name in found if "more" in name]
