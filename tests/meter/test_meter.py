"""The meter against a virtual device: what is charged to the input, and what is not."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from fakes.device import LAUNCH_LATENCY, MS, Training
from hypothesis import given, settings
from hypothesis import strategies as st

from iopipe.meter.meter import Meter

NUM_STEPS = 400


def _constant(milliseconds: float) -> Callable[[int], int]:
    return lambda number: round(milliseconds * MS)


def _stall_ms(training: Training, **options: Any) -> float:
    report = training.run(NUM_STEPS, **options).report()
    assert report.num_steps == NUM_STEPS - 1
    return report.attributed_stall_seconds * 1e3 / report.num_steps


@pytest.mark.parametrize(
    ("options", "expected_ms"),
    [  # a step of 10 ms on the device; copies of 1 ms unless said otherwise
        ({"load": _constant(8)}, 0.0),
        ({"load": _constant(14)}, 4.0),
        ({"load": _constant(14), "synchronizes": True}, 4.0),
        ({"load": _constant(8), "synchronizes": True}, 1.0),
        ({"load": _constant(6), "serial": True}, 0.0),
        ({"load": _constant(6), "serial": True, "synchronizes": True}, 7.0),
        ({"load": _constant(8), "h2d": 12 * MS}, 2.0),
        ({"load": _constant(8), "h2d": 4 * MS, "pageable": True, "synchronizes": True}, 4.0),
        ({"load": _constant(8), "python": 5 * MS, "synchronizes": True}, 1.0),
        ({"load": _constant(8), "launch": 12 * MS}, 0.98),
        ({"load": _constant(14), "launch": 12 * MS}, 2.98),
    ],
)
def test_the_table_of_known_cases(options: dict[str, Any], expected_ms: float) -> None:
    assert _stall_ms(Training(**options)) == pytest.approx(expected_ms, abs=0.03)


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        ({"load": _constant(14)}, "decode"),
        ({"load": _constant(8), "h2d": 12 * MS}, "h2d"),
    ],
)
def test_the_cause_is_the_stage_that_was_waited_for(options: dict[str, Any], cause: str) -> None:
    report = Training(**options).run(NUM_STEPS).report()
    assert max(report.causes, key=lambda name: report.causes[name]) == cause
    assert f"{cause}-bound" in report.verdict


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    mean_ms=st.floats(1, 20),
    depth=st.integers(1, 4),
    h2d_ms=st.floats(0, 15),
    synchronizes=st.booleans(),
)
def test_what_is_charged_is_what_the_stream_stood_idle(
    seed: int, mean_ms: float, depth: int, h2d_ms: float, synchronizes: bool
) -> None:
    generator = random.Random(seed)
    training = Training(
        load=lambda number: round(generator.expovariate(1 / mean_ms) * MS),
        depth=depth,
        h2d=round(h2d_ms * MS),
        synchronizes=synchronizes,
    )
    report = training.run(NUM_STEPS).report()
    charged = report.attributed_stall_seconds * 1e9
    assert charged <= training.idle + 1
    assert charged == pytest.approx(training.idle, abs=NUM_STEPS * LAUNCH_LATENCY)
    assert sum(report.causes.values()) == pytest.approx(report.attributed_stall_fraction)
    assert all(share >= 0 for share in report.causes.values())


def test_user_code_between_steps_is_not_input_where_steps_are_marked() -> None:
    training = Training(load=_constant(8), python=5 * MS, synchronizes=True)
    report = training.run(NUM_STEPS, marks_steps=True).report()
    per_step_ms = report.other_host_fraction * report.wall_seconds * 1e3 / report.num_steps
    assert per_step_ms == pytest.approx(5.0, abs=0.03)


def test_lead_is_how_far_the_host_runs_ahead() -> None:
    ahead = Training(load=_constant(2)).run(NUM_STEPS).report().lead_ms
    behind = Training(load=_constant(2), synchronizes=True).run(NUM_STEPS).report().lead_ms
    assert ahead == pytest.approx(40, abs=1.5)  # four steps of 10 ms
    assert behind == pytest.approx(0, abs=0.1)


def test_nothing_is_charged_before_the_device_got_there() -> None:
    training = Training(load=_constant(14))
    meter = Meter(training.device, clock=training.device.clock)
    for _ in range(3):
        meter.enter()
        training.device.host += MS
        meter.handoff(ready=training.device.host + 1000 * MS)
    assert meter.report().num_steps == 0
    training.device.host += 2000 * MS
    assert meter.report().num_steps == 2


def test_memory_does_not_grow_with_steps() -> None:
    ticks = iter(range(10**9))
    meter = Meter(clock=lambda: next(ticks), max_steps=50)
    for _ in range(5000):
        meter.enter()
        meter.handoff(num_samples=2)
    report = meter.report()
    assert len(report.steps) == 50
    assert len(meter._pending) == 0
    assert report.num_steps == 4999
    assert report.num_samples == 10_000


def test_a_foreign_loader_is_watched_without_being_changed() -> None:
    now = 0

    def loader() -> Any:
        nonlocal now
        for number in range(5):
            now += 30 * MS
            yield {"x": np.full((8, 2), number)}

    meter = Meter(clock=lambda: now)
    seen = []
    for batch in meter.watch(loader()):
        seen.append(int(batch["x"][0, 0]))
        now += 70 * MS
    report = meter.report()
    assert seen == [0, 1, 2, 3, 4]
    assert report.num_samples == 40
    assert report.compute_stream == "host thread"
    assert report.first_batch_seconds == pytest.approx(0.03)
    assert report.wall_seconds == pytest.approx(0.07 * 5 + 0.03 * 4)
    assert report.attributed_stall_seconds == pytest.approx(0.12)
    assert report.causes.keys() == {"loader"}
    assert report.step_ms.p50 == pytest.approx(100)
    assert report.stall_ms.p99 == pytest.approx(30)


def test_an_unused_meter_says_so() -> None:
    assert Meter().report().verdict == "nothing was measured yet"
