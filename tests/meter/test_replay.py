"""The replay: what is recoverable, against runs that really had ideal input."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from fakes.device import LAUNCH_LATENCY, MS, Training
from hypothesis import given
from hypothesis import strategies as st

from iopipe.meter.meter import Meter
from iopipe.meter.recording import RecordedStep
from iopipe.meter.replay import recoverable_ns, replay

NUM_STEPS = 300


def _constant(milliseconds: float) -> Callable[[int], int]:
    return lambda number: round(milliseconds * MS)


def _exponential(mean_ms: float) -> Callable[[int], int]:
    draws = random.Random(11)
    times = [round(draws.expovariate(1 / mean_ms) * MS) for _ in range(NUM_STEPS)]
    return lambda number: times[number]


CASES: dict[str, dict[str, Any]] = {
    "fed": {"load": _constant(8)},
    "slow loader": {"load": _constant(14)},
    "slow loader, synchronised": {"load": _constant(14), "synchronizes": True},
    "exposed copy": {"load": _constant(8), "synchronizes": True},
    "serial loader, hidden": {"load": _constant(6), "serial": True},
    "serial loader, synchronised": {"load": _constant(6), "serial": True, "synchronizes": True},
    "bursts": {"load": _exponential(8)},
    "bursts near saturation": {"load": _exponential(9.5)},
    "slow copies": {"load": _constant(8), "h2d": 12 * MS},
    "pageable copies": {
        "load": _constant(8), "h2d": 4 * MS, "pageable": True, "synchronizes": True,
    },
    "user code": {"load": _constant(8), "python": 5 * MS, "synchronizes": True},
    "launch-bound": {"load": _constant(8), "launch": 12 * MS},
    "launch-bound, slow loader": {"load": _constant(14), "launch": 12 * MS},
    "slowed, never idle": {"load": _constant(8), "gpu": 10 * MS * 108 // 100},
}  # fmt: skip


@pytest.mark.parametrize("marks_steps", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_recoverable_is_what_ideal_input_really_saves(name: str, marks_steps: bool) -> None:
    options = CASES[name]
    starved = Training(**options)
    ideal = Training(**{**options, "load": _constant(0), "h2d": 0, "serial": False})
    report = starved.run(NUM_STEPS, marks_steps=marks_steps).report()
    ideal.run(NUM_STEPS, marks_steps=marks_steps)
    saved_ns = starved.device.stream_free - ideal.device.stream_free
    saved_ns -= round(report.first_batch_seconds * 1e9)
    claimed_ns = report.recoverable_stall_fraction * report.wall_seconds * 1e9
    # 20 us a step is what the launch of a kernel takes; no stall below that can be told.
    assert claimed_ns / NUM_STEPS == pytest.approx(
        max(0, saved_ns) / NUM_STEPS, abs=max(2 * LAUNCH_LATENCY, 0.02 * 10 * MS)
    )
    assert report.recoverable_stall_fraction <= report.attributed_stall_fraction + 1e-12


def test_a_launch_bound_step_is_charged_but_nothing_is_recoverable() -> None:
    report = Training(load=_constant(8), launch=12 * MS).run(NUM_STEPS).report()
    assert report.attributed_stall_seconds * 1e3 / NUM_STEPS == pytest.approx(0.98, abs=0.03)
    assert report.recoverable_stall_fraction * report.wall_seconds * 1e3 / NUM_STEPS < 0.03


steps_of = st.lists(
    st.builds(
        RecordedStep,
        wait_ns=st.integers(0, 50),
        copy_ns=st.integers(0, 50),
        launch_ns=st.integers(0, 50),
        device_ns=st.integers(0, 50),
        host_ns=st.integers(0, 50),
        after_ns=st.integers(0, 50),
        steps_ahead=st.integers(0, 5),
        since_ns=st.integers(0, 50),
        travel_ns=st.just(0),
        take_ns=st.just(0),
        num_samples=st.just(1),
        spans=st.just(()),
    ),
    min_size=1,
    max_size=30,
)


@given(steps=steps_of, waits=st.lists(st.integers(0, 80), min_size=30, max_size=30))
def test_the_replay_is_a_host_and_a_stream_that_take_turns(
    steps: list[RecordedStep], waits: list[int]
) -> None:
    """Against a clock that ticks: the host and the stream as two state machines."""
    moments = replay(steps, lambda number, ask: ask + waits[number])
    assert moments == _ticked(steps, waits)


def _ticked(steps: list[RecordedStep], waits: list[int]) -> list[tuple[int, int]]:
    """Nanosecond by nanosecond: the host waits, hands over and works; the stream works off
    its queue, each entry not before its bytes are there and its launch is through."""
    queue: list[tuple[int, int, int]] = []  # (step, first moment, left to do)
    ends: dict[int, int] = {}
    asks: list[int] = []
    now, number, handed, ask = 0, 0, None, 0
    while len(ends) < len(steps) or len(asks) < len(steps):
        moved = True
        while moved:
            moved = False
            if number < len(steps) and handed is None and now >= ask + waits[number]:
                step = steps[number]
                handed = now
                queue.append((number, now + step.copy_ns + step.launch_ns, step.device_ns))
                moved = True
            while queue and queue[0][1] <= now and queue[0][2] == 0:
                ends[queue.pop(0)[0]] = now
                moved = True
            if handed is not None:
                step = steps[number]
                ahead = step.steps_ahead
                until = handed + step.host_ns
                if ahead == 0:
                    until = ends.get(number, now + 1) + step.after_ns
                elif 2 <= ahead <= number:
                    held = ends.get(number - ahead, now + 1) + step.since_ns
                    until = min(until, max(handed, held))
                if now >= until:
                    asks.append(now)
                    ask, handed, number = now, None, number + 1
                    moved = True
        if queue and queue[0][1] <= now:
            place, first, left = queue[0]
            queue[0] = (place, first, left - 1)
        now += 1
    return [(asks[place], ends[place]) for place in range(len(steps))]


@given(steps=steps_of)
def test_nothing_is_recoverable_from_steps_that_never_waited(steps: list[RecordedStep]) -> None:
    fed = [
        RecordedStep(
            wait_ns=0, copy_ns=0, launch_ns=0, device_ns=step.device_ns,
            host_ns=step.device_ns, after_ns=step.after_ns, steps_ahead=0, since_ns=0,
            travel_ns=0, take_ns=0, num_samples=1, spans=(),
        )
        for step in steps
    ]  # fmt: skip
    assert recoverable_ns(fed) == 0
    assert recoverable_ns([]) == 0


def test_the_recording_begins_anew_after_a_pause() -> None:
    now = 0

    def loader() -> Any:
        nonlocal now
        for _ in range(5):
            now += 10 * MS
            yield [0]

    meter = Meter(clock=lambda: now)
    for _ in range(3):
        for _ in meter.watch(loader()):
            now += 3 * MS
        now += 500 * MS
    steps = meter.recorded()
    assert [step.wait_ns for step in steps] == [10 * MS] * 5
    assert [step.device_ns for step in steps] == [3 * MS] * 5
