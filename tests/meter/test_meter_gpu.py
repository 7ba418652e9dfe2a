"""The meter on a real device, against the idle time between the kernels themselves."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from iopipe.meter.events import CudaEvents
from iopipe.meter.meter import Meter
from iopipe.meter.report import Report
from iopipe.meter.streams import JointEvents

pytestmark = pytest.mark.gpu

NUM_STEPS = 60
STEP_SECONDS = 0.010
TOLERANCE_SECONDS = max(0.02 * STEP_SECONDS, 20e-6)


@pytest.fixture(scope="module")
def cycles_per_second() -> float:
    """Of the counter that `torch.cuda._sleep` counts; close is enough, since the truth is
    taken from the kernels as they were."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda._sleep(500_000_000)
    start.record()
    torch.cuda._sleep(100_000_000)
    end.record()
    torch.cuda.synchronize()
    return 100_000_000 / (start.elapsed_time(end) / 1e3)


@dataclass
class Kernels:
    """The work of the steps, each between two events of its own."""

    cycles: int
    marks: list[tuple[Any, Any]] = field(default_factory=list)

    def launch(self) -> None:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        torch.cuda._sleep(self.cycles)
        end.record()
        self.marks.append((start, end))

    def idle_seconds(self) -> float:
        """Between the kernels, in all."""
        torch.cuda.synchronize()
        pairs = zip(self.marks, self.marks[1:], strict=False)
        return sum(before[1].elapsed_time(after[0]) for before, after in pairs) / 1e3


@pytest.fixture
def kernels(cycles_per_second: float) -> Kernels:
    torch.cuda.synchronize()
    return Kernels(int(STEP_SECONDS * cycles_per_second))


def _busy_until(deadline: float) -> None:
    while time.perf_counter() < deadline:
        continue


def _ready_every(seconds: float) -> Callable[[int], None]:
    """Waits for batch n of a loader that works on its own, in other processes."""
    start = time.perf_counter()
    return lambda number: _busy_until(start + number * seconds)


def _read_on_request(seconds: float) -> Callable[[int], None]:
    return lambda number: _busy_until(time.perf_counter() + seconds)


def _train(kernels: Kernels, wait: Callable[[int], None], *, synchronizes: bool) -> Report:
    meter = Meter(CudaEvents("cuda"))
    for number in range(NUM_STEPS):
        meter.enter()
        wait(number)
        meter.handoff(num_samples=4)
        kernels.launch()
        if synchronizes:
            torch.cuda.synchronize()
    meter.finish()
    torch.cuda.synchronize()
    return meter.report()


@pytest.mark.parametrize("synchronizes", [False, True])
@pytest.mark.parametrize(
    ("loader", "seconds", "stalls"),
    [
        (_ready_every, 0.004, False),
        (_ready_every, 0.014, True),
        (_read_on_request, 0.006, None),  # hidden where the host runs ahead
    ],
)
def test_a_wait_is_charged_as_far_as_the_stream_stood_idle(
    kernels: Kernels,
    loader: Callable[[float], Callable[[int], None]],
    seconds: float,
    stalls: bool | None,
    synchronizes: bool,
) -> None:
    report = _train(kernels, loader(seconds), synchronizes=synchronizes)
    truth = kernels.idle_seconds() / (NUM_STEPS - 1)
    assert report.num_steps == NUM_STEPS - 1
    assert report.num_samples == 4 * NUM_STEPS
    charged = report.attributed_stall_seconds / report.num_steps
    assert charged == pytest.approx(truth, abs=TOLERANCE_SECONDS)
    assert (charged > 0.002) == (synchronizes if stalls is None else stalls)


def test_a_late_copy_is_charged_to_the_copy(kernels: Kernels) -> None:
    events = CudaEvents("cuda")
    meter = Meter(events)
    copies = torch.cuda.Stream()
    for _ in range(NUM_STEPS):  # the host is done with all of them in a few milliseconds
        meter.enter()
        with torch.cuda.stream(copies):
            torch.cuda._sleep(kernels.cycles * 13 // 10)
            ready = events.record()
        meter.handoff(ready=ready, num_samples=4)
        kernels.launch()
    meter.finish()
    truth = kernels.idle_seconds()
    report = meter.report()
    assert truth > 0.002 * NUM_STEPS
    charged = report.causes["h2d"] * report.wall_seconds
    assert charged / report.num_steps == pytest.approx(
        truth / (NUM_STEPS - 1), abs=TOLERANCE_SECONDS
    )
    assert report.wall_seconds == pytest.approx(
        kernels.marks[0][0].elapsed_time(kernels.marks[-1][1]) / 1e3, rel=0.01
    )


def test_user_code_between_marked_steps_is_not_charged(kernels: Kernels) -> None:
    meter = Meter(CudaEvents("cuda"))
    for _ in range(NUM_STEPS):
        meter.enter()
        meter.handoff()
        kernels.launch()
        meter.step()
        torch.cuda.synchronize()
        _busy_until(time.perf_counter() + 0.005)
    meter.finish()
    truth = kernels.idle_seconds() / (NUM_STEPS - 1)
    report = meter.report()
    other = report.other_host_fraction * report.wall_seconds / NUM_STEPS
    assert other == pytest.approx(truth, abs=TOLERANCE_SECONDS)
    assert report.attributed_stall_seconds / NUM_STEPS < TOLERANCE_SECONDS


def test_lead_is_the_work_that_is_still_to_come(kernels: Kernels) -> None:
    fed = _train(kernels, _ready_every(0.004), synchronizes=False)
    starved = _train(kernels, _ready_every(0.014), synchronizes=False)
    # Batch n is asked for at 4 n ms, the stream is through with it at 10 n ms.
    assert fed.lead_ms == pytest.approx(0.5 * NUM_STEPS * 6, rel=0.2)
    assert starved.lead_ms == pytest.approx(10, rel=0.2)


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")  # a prototype, says torch
def test_the_meter_never_synchronises(kernels: Kernels) -> None:
    meter = Meter(CudaEvents("cuda"))
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in meter.watch(torch.zeros(4) for _ in range(NUM_STEPS)):
            kernels.launch()
            meter.step()
        assert not kernels.marks[-1][1].query()  # 600 ms of work, enqueued in a few
        assert meter.report().num_steps < NUM_STEPS - 1
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.cuda.synchronize()
    assert meter.report().num_steps == NUM_STEPS - 1


def test_a_copy_in_the_loop_and_a_slow_launch_are_told_apart(kernels: Kernels) -> None:
    """Pageable memory: the host is held until it is read, the copy is on the step's stream."""
    pageable = torch.zeros(64 << 20, dtype=torch.uint8)
    torch.cuda.synchronize()
    meter = Meter(CudaEvents("cuda"))
    copies = []
    for _ in range(20):
        meter.enter()
        meter.handoff()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        pageable.to("cuda")
        end.record()
        copies.append((start, end))
        meter.moved()
        torch.cuda.synchronize()
        _busy_until(time.perf_counter() + 0.004)
        meter.begin()
        kernels.launch()
        meter.step()
        torch.cuda.synchronize()
    meter.finish()
    torch.cuda.synchronize()
    report = meter.report()
    truth = sum(start.elapsed_time(end) for start, end in copies) / 1e3 / len(copies)
    charged = report.causes["h2d"] * report.wall_seconds / len(copies)
    assert charged == pytest.approx(truth, abs=TOLERANCE_SECONDS)
    launch = report.launch_fraction * report.wall_seconds / len(copies)
    assert launch == pytest.approx(0.004, abs=2 * TOLERANCE_SECONDS)


def test_a_second_stream_that_works_is_no_idle_time(kernels: Kernels) -> None:
    second = torch.cuda.Stream()
    clocks = [CudaEvents("cuda"), CudaEvents("cuda", stream=second)]
    meters = {"one": Meter(clocks[0]), "both": Meter(JointEvents(clocks))}
    for _ in range(20):
        for meter in meters.values():
            meter.enter()
        _busy_until(time.perf_counter() + 0.006)
        for meter in meters.values():
            meter.handoff()
        with torch.cuda.stream(second):
            torch.cuda._sleep(kernels.cycles // 2)  # 5 of the 6 ms that the host takes
    for meter in meters.values():
        meter.finish()
    torch.cuda.synchronize()
    stalls = {name: meter.report().attributed_stall_seconds / 19 for name, meter in meters.items()}
    assert stalls["one"] == pytest.approx(0.006, abs=2 * TOLERANCE_SECONDS)
    assert stalls["both"] == pytest.approx(0.001, abs=4 * TOLERANCE_SECONDS)


@pytest.mark.parametrize(
    ("seconds", "synchronizes", "expected"),
    [(0.014, False, 0.004), (0.014, True, 0.004), (0.004, False, 0.0), (0.004, True, 0.0)],
)
def test_what_is_recoverable_is_what_an_ideal_loader_saves(
    kernels: Kernels, seconds: float, synchronizes: bool, expected: float
) -> None:
    report = _train(kernels, _ready_every(seconds), synchronizes=synchronizes)
    saved = report.recoverable_stall_fraction * report.wall_seconds / report.num_steps
    assert saved == pytest.approx(expected, abs=2 * TOLERANCE_SECONDS)


def test_many_small_kernels_are_no_input(kernels: Kernels) -> None:
    """The host launches them more slowly than the device runs them: nothing is recoverable."""
    value = torch.zeros(16, device="cuda")
    meter = Meter(CudaEvents("cuda"))
    for _ in range(20):
        meter.enter()
        meter.handoff()
        for _ in range(1000):
            value += 1
        meter.step()
    meter.finish()
    torch.cuda.synchronize()
    report = meter.report()
    per_step = report.recoverable_stall_fraction * report.wall_seconds / report.num_steps
    assert per_step < TOLERANCE_SECONDS
