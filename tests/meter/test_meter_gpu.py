"""The meter on a real device, against stalls of known length."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import torch

from iopipe.meter.events import CudaEvents
from iopipe.meter.meter import Meter

pytestmark = pytest.mark.gpu

NUM_STEPS = 60
STEP_SECONDS = 0.010


@pytest.fixture
def cycles_per_second() -> float:
    """Of the counter that `torch.cuda._sleep` counts."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda._sleep(10_000_000)
    start.record()
    torch.cuda._sleep(100_000_000)
    end.record()
    torch.cuda.synchronize()
    return 100_000_000 / (start.elapsed_time(end) / 1e3)


def _busy_until(deadline: float) -> None:
    while time.perf_counter() < deadline:
        continue


def _slow_loader(seconds: float) -> Iterator[torch.Tensor]:
    """Batches that become ready every `seconds`, as from a loader in other processes."""
    start = time.perf_counter()
    for number in range(NUM_STEPS):
        _busy_until(start + number * seconds)
        yield torch.zeros(4)


@pytest.mark.parametrize(("load_seconds", "stall_seconds"), [(0.008, 0.0), (0.014, 0.004)])
def test_a_late_loader_is_charged_what_the_stream_stood_idle(
    cycles_per_second: float, load_seconds: float, stall_seconds: float
) -> None:
    meter = Meter(CudaEvents("cuda"))
    cycles = int(STEP_SECONDS * cycles_per_second)
    for _ in meter.watch(_slow_loader(load_seconds)):
        torch.cuda._sleep(cycles)
    torch.cuda.synchronize()
    report = meter.report()
    assert report.num_steps == NUM_STEPS - 1
    per_step = report.attributed_stall_seconds / report.num_steps
    assert per_step == pytest.approx(stall_seconds, abs=max(0.02 * STEP_SECONDS, 20e-6))


def test_the_meter_never_synchronises(cycles_per_second: float) -> None:
    meter = Meter(CudaEvents("cuda"))
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in meter.watch(_slow_loader(0.001)):
            torch.cuda._sleep(int(0.002 * cycles_per_second))
        meter.report()
    finally:
        torch.cuda.set_sync_debug_mode("default")
