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
