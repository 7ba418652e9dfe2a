"""Injected truths: one delay of known length a step, and the one cause it is charged to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from fakes.device import MS, VirtualDevice

from iopipe.meter.meter import Meter
from iopipe.meter.report import IDLE_CAUSES
from iopipe.meter.spans import Span

NUM_STEPS = 50
STEP = 5 * MS
DELAY = 3 * MS


@dataclass(slots=True)
class History:
    """What the meter tells of every step."""

    steps: list[tuple[int, int, dict[str, int]]] = field(default_factory=list)

    def add(self, started_ns: int, ended_ns: int, causes: Mapping[str, int]) -> None:
        self.steps.append((started_ns, ended_ns, dict(causes)))


@dataclass(slots=True)
class Loop:
    """A synchronised loop: host and stream meet after every step, so that a delay anywhere
    is idle time of its full length."""

    device: VirtualDevice = field(default_factory=VirtualDevice)
    history: History = field(default_factory=History)

    def run(self, step: Callable[[Loop, Meter], None]) -> Meter:
        meter = Meter(self.device, clock=self.device.clock, history=self.history)
        for _ in range(NUM_STEPS):
            meter.enter()
            step(self, meter)
            meter.step()
            self.device.host = max(self.device.host, self.device.stream_free)
        meter.finish()
        return meter

    def kernels(self, length: int = STEP) -> None:
        self.device.stream_free = max(self.device.stream_free, self.device.host) + length

    def wait(self, length: int = DELAY) -> None:
        self.device.host += length


def _stage(cause: Any) -> Callable[[Loop, Meter], None]:
    def step(loop: Loop, meter: Meter) -> None:
        start = loop.device.host
        loop.wait()
        span = Span(cause, cause, start, loop.device.host)
        meter.handoff(spans=[span], num_samples=1)
        loop.kernels()

    return step


def _behind_another_batch(loop: Loop, meter: Meter) -> None:
    done = loop.device.host
    loop.wait()
    meter.handoff(spans=[Span("decode", "decode", done - MS, done)])
    loop.kernels()


def _pinned_copy(loop: Loop, meter: Meter) -> None:
    meter.handoff(ready=loop.device.host + DELAY)
    loop.kernels()


def _decode_on_the_device(loop: Loop, meter: Meter) -> None:
    meter.handoff(ready=loop.device.host + DELAY, device_cause="gpu_decode")
    loop.kernels()


def _pageable_copy_in_the_loop(loop: Loop, meter: Meter) -> None:
    meter.handoff()
    loop.wait()  # the host is held until the bytes are there
    meter.moved()
    meter.begin()
    loop.kernels()


def _slow_launch(loop: Loop, meter: Meter) -> None:
    meter.handoff()
    loop.wait()
    meter.begin()
    loop.kernels()


def _user_code_between_steps(loop: Loop, meter: Meter) -> None:
    meter.handoff()
    loop.kernels()
    meter.step()
    loop.device.host = loop.device.stream_free
    loop.wait()


@pytest.mark.parametrize(
    ("step", "cause"),
    [
        *((_stage(cause), cause) for cause in ("storage", "decode", "transform", "collate")),
        (_behind_another_batch, "queue"),
        (_pinned_copy, "h2d"),
        (_pageable_copy_in_the_loop, "h2d"),
        (_decode_on_the_device, "gpu_decode"),
        (_slow_launch, "launch"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_delay_is_charged_to_its_cause_to_the_nanosecond(
    step: Callable[[Loop, Meter], None], cause: str
) -> None:
    loop = Loop()
    report = loop.run(step).report()
    causes = report.to_json()["causes"]
    gaps = sum(parts.get(cause, 0) for _, _, parts in loop.history.steps)
    assert gaps == (NUM_STEPS - 1) * DELAY
    assert all(set(parts) == {cause} for _, _, parts in loop.history.steps)
    # The step of the last batch ends the wall time; its own marks belong to it.
    num_delays = gaps // DELAY + (cause in ("launch",) or step is _pageable_copy_in_the_loop)
    assert causes[cause] * report.wall_seconds == pytest.approx(num_delays * DELAY / 1e9)
    assert {name for name, share in causes.items() if share} == {cause}
    assert set(causes) == set(IDLE_CAUSES)


def test_user_code_is_no_input_and_thousands_of_kernels_are_no_gap() -> None:
    meter_report = Loop().run(_user_code_between_steps).report()
    assert meter_report.attributed_stall_fraction == 0

    def many_kernels(loop: Loop, meter: Meter) -> None:
        meter.handoff()
        for _ in range(2000):  # each is over before the next one is launched
            loop.kernels(1_000)
            loop.wait(2_000)

    report = Loop().run(many_kernels).report()
    assert report.attributed_stall_fraction == 0
    assert report.recoverable_stall_fraction == 0


def test_marked_user_code_is_other_host_time() -> None:
    def step(loop: Loop, meter: Meter) -> None:
        loop.wait()  # before the hand-off, but after the request: the loader's
        meter.handoff(spans=[Span("loader", "loader", 0, loop.device.host)])
        loop.kernels()

    device = VirtualDevice()
    loop = Loop(device)
    meter = Meter(device, clock=device.clock, history=loop.history)
    for _ in range(NUM_STEPS):
        meter.enter()
        step(loop, meter)
        meter.step()
        device.host = device.stream_free + 2 * MS  # `.item()`, then a checkpoint
    meter.finish()
    report = meter.report()
    assert report.other_host_fraction * report.wall_seconds == pytest.approx(NUM_STEPS * 0.002)
    assert report.causes["loader"] * report.wall_seconds == pytest.approx(
        (NUM_STEPS - 1) * DELAY / 1e9
    )
    started, ended, parts = loop.history.steps[3]
    assert (ended - started, parts) == (10 * MS, {"loader": DELAY, "other_host": 2 * MS})


def test_the_parts_of_a_gap_add_up_to_it() -> None:
    loop = Loop()

    def step(loop: Loop, meter: Meter) -> None:
        start = loop.device.host
        loop.wait(MS)
        meter.handoff(
            spans=[Span("read", "storage", start, loop.device.host)],
            ready=loop.device.host + 2 * MS,
        )
        loop.wait(4 * MS)
        meter.moved()
        loop.wait(8 * MS)
        meter.begin()
        loop.kernels(16 * MS)

    report = loop.run(step).report()
    started, ended, parts = loop.history.steps[0]
    assert parts == {"storage": MS, "h2d": 4 * MS, "launch": 8 * MS}  # the copies overlap
    assert ended - started == 16 * MS + sum(parts.values())
    shares = report.to_json()["causes"]
    busy = 16e-3 * NUM_STEPS / report.wall_seconds
    assert sum(shares.values()) + busy == pytest.approx(1)


def test_accumulated_gradients_have_one_record_a_batch() -> None:
    """Four batches a step; the optimizer runs after the fourth alone."""
    device = VirtualDevice()
    loop = Loop(device)
    meter = Meter(device, clock=device.clock, history=loop.history)
    for number in range(4 * NUM_STEPS):
        meter.enter()
        loop.wait(MS)
        meter.handoff(num_samples=2)
        meter.begin()
        loop.kernels()
        meter.begin()  # the second module of the same batch
        device.host = device.stream_free
        if number % 4 == 3:
            loop.kernels(MS)
            meter.step()
            device.host = device.stream_free
    meter.finish()
    report = meter.report()
    assert report.num_steps == 4 * NUM_STEPS - 1
    assert report.num_samples == 8 * NUM_STEPS
    assert report.attributed_stall_seconds == pytest.approx((4 * NUM_STEPS - 1) * 1e-3)
    assert report.launch_fraction == 0


def test_marks_behind_the_last_batch_are_no_part_of_the_next_epoch() -> None:
    """Gradients that are left over are applied behind the loop, then comes a long pause."""
    device = VirtualDevice()
    loop = Loop(device)
    meter = Meter(device, clock=device.clock, history=loop.history)
    meter.step()  # before the first batch, too
    for _ in range(2):
        for _ in range(3):
            meter.enter()
            loop.wait(MS)
            meter.handoff(spans=[Span("loader", "loader", 0, device.host)], num_samples=1)
            loop.kernels()
            device.host = device.stream_free
        meter.finish()
        meter.moved()
        meter.begin()
        meter.step()
        device.host += 10_000 * MS
    report = meter.report()
    causes = report.to_json()["causes"]
    assert report.wall_seconds == pytest.approx((6 * 5 + 5 * 1) / 1e3)
    assert (causes["other_host"], causes["launch"], causes["h2d"]) == (0, 0, 0)
    assert causes["loader"] == pytest.approx(5 / 35)
    assert [parts for _, _, parts in loop.history.steps] == [{"loader": MS}] * 5


def test_memory_stays_bounded_and_the_events_are_given_back() -> None:
    class Moment(int):
        pass

    class Counting(VirtualDevice):
        alive = 0
        most = 0

        def record(self) -> int:
            self.alive += 1
            self.most = max(self.most, self.alive)
            return Moment(super().record())  # each an object of its own

        def release(self, event: int) -> None:
            self.alive -= 1

    device = Counting()
    meter = Meter(device, clock=device.clock, max_steps=10)
    for _ in range(20_000):
        meter.enter()
        meter.handoff(ready=device.host)
        meter.moved()
        meter.begin()
        meter.step()
        device.host += 7
    meter.finish()
    assert device.most <= 16
    assert len(meter.recorded()) == 4096
    assert len(meter.report().steps) == 10
