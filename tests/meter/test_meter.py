"""The meter against a virtual device: what is charged to the input, and what is not."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from fakes.device import LAUNCH_LATENCY, MS, Training, VirtualDevice
from hypothesis import given, settings
from hypothesis import strategies as st

from iopipe.meter.meter import Meter, num_samples_of

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
        ({"load": _constant(8), "gpu": 10 * MS * 108 // 100}, 0.0),  # slowed, never idle
    ],
)
def test_the_table_of_known_cases(options: dict[str, Any], expected_ms: float) -> None:
    assert _stall_ms(Training(**options)) == pytest.approx(expected_ms, abs=0.03)


def _exponential(mean_ms: float) -> Callable[[int], int]:
    draws = random.Random(7)
    times = [round(draws.expovariate(1 / mean_ms) * MS) for _ in range(NUM_STEPS)]
    return lambda number: times[number]


@pytest.mark.parametrize(
    "options",
    [
        {"load": _constant(14)},
        {"load": _exponential(8)},
        {"load": _exponential(9.5)},
        {"load": _constant(8), "h2d": 12 * MS},
    ],
)
def test_where_the_host_runs_ahead_the_charge_is_what_ideal_input_saves(
    options: dict[str, Any],
) -> None:
    starved, ideal = Training(**options), Training(load=_constant(0), h2d=0)
    report = starved.run(NUM_STEPS).report()
    ideal.run(NUM_STEPS)
    saved_ns = starved.device.stream_free - ideal.device.stream_free
    saved_ns -= round(report.first_batch_seconds * 1e9)
    assert report.attributed_stall_seconds * 1e9 / NUM_STEPS == pytest.approx(
        saved_ns / NUM_STEPS, abs=2 * LAUNCH_LATENCY
    )


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


def test_time_is_the_streams_when_the_host_is_far_ahead() -> None:
    device = VirtualDevice()
    meter = Meter(device, clock=device.clock)
    for _ in range(50):  # copies of 12 ms, kernels of 10 ms, a host that needs 1 ms
        meter.enter()
        device.copy_free = max(device.host, device.copy_free) + 12 * MS
        meter.handoff(ready=device.copy_free, num_samples=6)
        device.stream_free += 10 * MS
        device.host += MS
    meter.finish()
    assert meter.report().num_steps == 3  # 50 ms after the start: the rest is still to come
    device.host = device.stream_free
    for report in (meter.report(), meter.report()):
        assert report.wall_seconds == pytest.approx(49 * 0.012 + 0.010)
        assert report.first_batch_seconds == pytest.approx(0.012)
        assert report.attributed_stall_seconds == pytest.approx(49 * 0.002)
        assert report.causes["h2d"] == report.attributed_stall_fraction
        assert report.num_samples == 300
        assert report.samples_per_second == pytest.approx(300 / report.wall_seconds)
        assert report.step_ms.p50 == pytest.approx(12)
        assert [step.start_ns for step in report.steps[:2]] == [0, 12 * MS]


def test_pauses_between_iterations_belong_to_nobody() -> None:
    now = 0

    def loader() -> Any:
        nonlocal now
        now += 50 * MS
        for _ in range(3):
            now += 10 * MS
            yield np.zeros(8)

    meter = Meter(clock=lambda: now)
    for _ in range(2):
        for _ in meter.watch(loader()):
            now += 90 * MS
            meter.step()
        meter.finish()
        now += 1000 * MS
    report = meter.report()
    assert report.first_batch_seconds == pytest.approx(0.060)
    # The second start of the loader starves the step as any other wait does.
    assert report.attributed_stall_seconds == pytest.approx(4 * 0.010 + 0.060)
    assert report.wall_seconds == pytest.approx(6 * 0.090 + 4 * 0.010 + 0.060)
    assert report.num_samples == 48
    assert report.other_host_fraction == 0
    assert sum(step.stall_ns for step in report.steps) == 100 * MS


def test_an_iteration_that_is_left_early_ends_its_step() -> None:
    now = 0

    def loader() -> Any:
        nonlocal now
        while True:
            now += 10 * MS
            yield np.zeros(8)

    meter = Meter(clock=lambda: now)
    for number, _ in enumerate(meter.watch(loader())):
        now += 90 * MS
        if number == 2:
            break
    report = meter.report()
    assert report.wall_seconds == pytest.approx(3 * 0.090 + 2 * 0.010)
    assert report.num_samples == 24


def test_asking_again_after_a_failure_is_the_same_wait() -> None:
    now = 0
    meter = Meter(clock=lambda: now)
    meter.enter()
    meter.handoff()
    meter.enter()
    now += 5 * MS  # the loader raised; the loop tries again
    meter.enter()
    now += 5 * MS
    meter.handoff()
    assert meter.report().attributed_stall_seconds == pytest.approx(0.010)


def test_a_hand_off_needs_a_request() -> None:
    with pytest.raises(RuntimeError, match="after enter"):
        Meter().handoff()


class _PooledDevice(VirtualDevice):
    """Hands released events out again, as a CUDA pool does: who reads one too late reads
    another moment."""

    def __init__(self) -> None:
        super().__init__()
        self.pool: list[list[int]] = []
        self.num_events = 0

    def record(self) -> Any:
        event = self.pool.pop() if self.pool else []
        self.num_events += not event
        event[:] = [super().record()]
        return event

    def done(self, event: Any) -> bool:
        return bool(event[0] <= self.host)

    def elapsed_ns(self, start: Any, end: Any) -> int:
        return int(end[0] - start[0])

    def release(self, event: Any) -> None:
        assert not any(free is event for free in self.pool), "released twice"
        self.pool.append(event)


@pytest.mark.parametrize("marks_steps", [True, False])
def test_events_are_reused_and_never_too_early(marks_steps: bool) -> None:
    pooled = Training(load=_exponential(9.5), device=_PooledDevice())
    report = pooled.run(NUM_STEPS, marks_steps=marks_steps).report()
    plain = Training(load=_exponential(9.5)).run(NUM_STEPS, marks_steps=marks_steps).report()
    assert report.steps == plain.steps
    assert report.other_host_fraction == plain.other_host_fraction
    assert pooled.device.num_events <= 30  # four a step, five or six steps under way
    assert len(pooled.device.pool) == pooled.device.num_events


def test_memory_does_not_grow_with_steps() -> None:
    ticks = iter(range(10**9))
    meter = Meter(clock=lambda: next(ticks), max_steps=50)
    for _ in range(5000):
        meter.enter()
        meter.handoff(num_samples=2)
    meter.finish()
    report = meter.report()
    assert len(report.steps) == 50
    assert len(meter._pending) == 0
    assert report.num_steps == 4999
    assert report.num_samples == 10_000


@pytest.mark.parametrize(
    ("batch", "num_samples"),
    [
        (np.zeros((3, 2)), 3),
        ((np.zeros((3, 2)), np.zeros(3)), 3),
        ({"key": ["a", "b"], "x": {"image": np.zeros((2, 4))}}, 2),
        ([[np.float32(0), np.zeros(5)], 7], 5),
        (["a", "b"], 0),
        (7, 0),
    ],
)
def test_the_samples_of_a_foreign_batch_are_counted(batch: Any, num_samples: int) -> None:
    meter = Meter()
    list(meter.watch([batch, batch]))
    assert meter.report().num_samples == 2 * num_samples


def test_a_long_column_of_words_is_not_looked_through() -> None:
    """512 texts a batch would take longer than a step may be measured for."""

    class Words(list[str]):
        num_asked = 0

        def __getitem__(self, place: Any) -> Any:
            found = super().__getitem__(place)
            self.num_asked += len(found) if isinstance(place, slice) else 1
            return found

        def __iter__(self) -> Any:
            raise AssertionError("all of them are looked at")

    words = Words(["a"] * 512)
    assert num_samples_of({"text": words, "x": np.zeros((3, 2))}) == 3
    assert words.num_asked <= 32


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
