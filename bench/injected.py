"""The meter on a CUDA device against the kernels themselves: `python -m iopipe.bench.injected`.

Stands beside the other benchmarks.  Invariant: the truth comes from the intervals of kernels and
copies that torch.profiler recorded on the stream of the step, gap by gap; the meter does not see
them.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from iopipe.bench.harness import write_results
from iopipe.bench.injected_cases import CASES, STEP_SECONDS, Case, Outcome, run_case
from iopipe.meter.events import CudaEvents
from iopipe.protocols import Event, Events

TOLERANCE_NS = max(0.02 * STEP_SECONDS, 20e-6) * 1e9
_PINNED_BYTES = 192 << 20
_PAGEABLE_BYTES = 32 << 20
_KERNEL = "spin_kernel"
"""What `torch.cuda._sleep` launches; no other kernel of a case has that in its name."""


_cuda: Any = torch.cuda  # most of it has no types


class CudaRig:
    """The current device; a context manager that records what runs there."""

    def __init__(self) -> None:
        self.events: Events = CudaEvents("cuda")
        self._cycles_per_second = cycles_per_second()
        self._copies = _cuda.Stream()
        self._pinned = torch.zeros(_PINNED_BYTES, dtype=torch.uint8, pin_memory=True)
        self._pageable = torch.zeros(_PAGEABLE_BYTES, dtype=torch.uint8)
        self._target = torch.zeros(_PINNED_BYTES, dtype=torch.uint8, device="cuda")
        self._small = torch.zeros(16, device="cuda")
        self._num_of_step: list[int] = []
        self._num_enqueued = 0
        self._profile: Any = profile(activities=[ProfilerActivity.CUDA])
        self._intervals: list[tuple[int, int]] = []
        self._is_over = False

    def __enter__(self) -> CudaRig:
        torch.cuda.synchronize()
        self._profile.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._stop()

    def now_ns(self) -> int:
        return time.perf_counter_ns()

    def work(self, seconds: float) -> None:
        deadline = time.perf_counter() + seconds
        while time.perf_counter() < deadline:
            continue

    def compute(self, seconds: float) -> None:
        _cuda._sleep(int(seconds * self._cycles_per_second))
        self._num_enqueued += 1

    def compute_tiny(self, num_kernels: int) -> None:
        for _ in range(num_kernels):
            self._small += 1

    def copy_ahead(self) -> Event:
        with torch.cuda.stream(self._copies):
            self._target.copy_(self._pinned, non_blocking=True)
            return self._copies.record_event()

    def copy_here(self) -> None:
        self._target[:_PAGEABLE_BYTES].copy_(self._pageable)

    def synchronize(self) -> None:
        torch.cuda.synchronize()

    def end_step(self) -> None:
        self._num_of_step.append(self._num_enqueued)
        self._num_enqueued = 0

    def gaps_ns(self) -> list[int]:
        self._stop()
        kernels = iter(self._intervals)
        steps = [[next(kernels) for _ in range(number)] for number in self._num_of_step]
        return [after[0][0] - before[-1][1] for before, after in itertools.pairwise(steps)]

    def _stop(self) -> None:
        if self._is_over:
            return
        self._is_over = True
        self.synchronize()
        self._profile.__exit__(None, None, None)
        found: Any = self._profile.profiler
        self._intervals = sorted(
            (event.start_ns(), event.start_ns() + event.duration_ns())
            for event in found.kineto_results.events()
            if _KERNEL in event.name()
        )
        if len(self._intervals) != sum(self._num_of_step):
            raise RuntimeError(
                f"the profiler recorded {len(self._intervals)} of {sum(self._num_of_step)} kernels"
            )


def cycles_per_second() -> float:
    """Of the counter that `torch.cuda._sleep` counts, once the clocks are up."""
    start, end = (_cuda.Event(enable_timing=True) for _ in range(2))
    _cuda._sleep(500_000_000)
    start.record()
    _cuda._sleep(100_000_000)
    end.record()
    torch.cuda.synchronize()
    return 100_000_000 / (float(start.elapsed_time(end)) / 1e3)


def judged(name: str, case: Case, outcome: Outcome) -> dict[str, Any]:
    """A row; errors in microseconds a gap."""
    truth, charged = outcome.truth_ns, outcome.charged_ns
    if case.inside:  # whatever is charged to the input is wrong, and nothing can be won back
        errors = list(outcome.elsewhere_ns)
        is_right = outcome.recoverable_ns <= TOLERANCE_NS
    else:
        errors = [abs(a - b) for a, b in zip(truth, charged, strict=True)]
        is_right = sum(charged) > 4 * sum(outcome.elsewhere_ns)
    return {
        "case": name,
        "cause": case.cause or "none of the input's",
        "is_right_cause": is_right,
        "num_gaps": len(truth),
        "truth_us": statistics.fmean(truth) / 1e3,
        "charged_us": statistics.fmean(charged) / 1e3,
        "elsewhere_us": statistics.fmean(outcome.elsewhere_ns) / 1e3,
        "recoverable_us": outcome.recoverable_ns / 1e3,
        "error_of_the_mean_us": abs(statistics.fmean(truth) - statistics.fmean(charged)) / 1e3
        if not case.inside
        else statistics.fmean(errors) / 1e3,
        "largest_error_us": max(errors) / 1e3,
        "median_error_us": statistics.median(errors) / 1e3,
        "share_of_gaps_within": sum(error <= TOLERANCE_NS for error in errors) / len(errors),
        "tolerance_us": TOLERANCE_NS / 1e3,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args(arguments)
    rows = []
    with CudaRig() as rig:  # the first profile of a process starts slowly
        run_case(CASES["slow launch"], rig)
    for name, case in CASES.items():
        with CudaRig() as rig:
            rows.append(judged(name, case, run_case(case, rig)))
        print(
            f"{name}: truth {rows[-1]['truth_us']:,.1f} us, charged {rows[-1]['charged_us']:,.1f} "
            f"us to {rows[-1]['cause']}, {rows[-1]['elsewhere_us']:,.1f} elsewhere; error of the "
            f"mean {rows[-1]['error_of_the_mean_us']:,.1f} us, gap by gap median "
            f"{rows[-1]['median_error_us']:,.1f}, largest {rows[-1]['largest_error_us']:,.1f}",
            flush=True,
        )
    write_results(
        options.json,
        command="python -m iopipe.bench.injected",
        cache={"state": "no files are read"},
        rows=rows,
    )


if __name__ == "__main__":
    main()
