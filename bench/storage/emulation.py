"""`--workload`: how many emulated accelerators the storage keeps busy.

Stands between the command and `training`.  Invariant: the figure is called "AU (DLIO definition)"
or "AU-to-GPU", never a result of MLPerf's.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from iopipe.bench.storage.accelerator import Accelerator, GpuAccelerator, SleepingAccelerator
from iopipe.bench.storage.backends import backends_for
from iopipe.bench.storage.dataset import Dataset, dataset_of
from iopipe.bench.storage.results import write_json
from iopipe.bench.storage.surroundings import surroundings
from iopipe.bench.storage.training import largest_passing, train
from iopipe.bench.storage.utilisation import mean_utilisation, samples_per_second
from iopipe.bench.storage.workloads import Workload, workload_of
from iopipe.errors import PipelineError
from iopipe.protocols import Store
from iopipe.storage import open_store

_LEAST_STEPS, _MOST_STEPS = 3, 500
_MOST_ACCELERATORS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """So many accelerators, measured once."""

    num_accelerators: int
    num_steps: int
    utilisation: float
    """Computation over the time it took: near 1 no accelerator waits."""
    samples_per_second: float
    """Of all accelerators together, the first step included."""
    num_bytes_per_second: float
    passes: bool

    def as_json(self, workload: Workload, metric: str) -> dict[str, Any]:
        """With DLIO's names beside our own."""
        return {
            "workload": workload.name,
            "accelerator": workload.accelerator,
            "num_accelerators": self.num_accelerators,
            "num_steps": self.num_steps,
            "metric": metric,
            "mark": workload.mark,
            "passes": self.passes,
            "gbps": self.num_bytes_per_second / 1e9,
            "train_au_mean_percentage": 100 * self.utilisation,
            "train_au_meet_expectation": "success" if self.passes else "fail",
            "train_throughput_samples_per_second": self.samples_per_second,
            "train_io_mean_MB_per_second": self.num_bytes_per_second / (1 << 20),
        }


class Trials:
    """Runs numbers of accelerators on one dataset; a number is measured once."""

    def __init__(
        self, store: Store, dataset: Dataset, workload: Workload, *, seconds: float, to_gpu: bool
    ) -> None:
        self._store, self._dataset, self._workload = store, dataset, workload
        self._to_gpu = to_gpu
        self._steps = round(seconds / workload.compute_seconds)
        self._steps = min(_MOST_STEPS, max(_LEAST_STEPS, self._steps))
        self.done: dict[int, Trial] = {}

    def passes(self, num_accelerators: int) -> bool:
        if num_accelerators not in self.done:
            self.done[num_accelerators] = self._measured(num_accelerators)
        return self.done[num_accelerators].passes

    def _measured(self, number: int) -> Trial:
        accelerators = [self._accelerator() for _ in range(number)]
        self._dataset.drop_page_cache()
        epochs = train(
            self._store,
            self._dataset.samples,
            self._workload,
            accelerators,
            num_steps=self._steps,
            seed=number,
        )
        ranks = [[epoch] for epoch in epochs]
        utilisation, _ = mean_utilisation(ranks)
        rate = samples_per_second(ranks, batch_size=self._workload.batch_size)
        mean_bytes = self._dataset.num_bytes / len(self._dataset.samples)
        trial = Trial(
            num_accelerators=number,
            num_steps=self._steps,
            utilisation=utilisation,
            samples_per_second=rate,
            num_bytes_per_second=rate * mean_bytes,
            passes=utilisation >= self._workload.mark,
        )
        print(f"{number} accelerators: AU {100 * utilisation:.1f} %", file=sys.stderr)
        return trial

    def _accelerator(self) -> Accelerator:
        return GpuAccelerator() if self._to_gpu else SleepingAccelerator()


def run_workload(options: argparse.Namespace, console: Console) -> int:
    """Measure, print and write; 1 where not even one accelerator is kept busy."""
    workload = workload_of(options.workload, options.accelerator)
    if len(options.target) != 1 or len(options.backends or ()) > 1:
        raise PipelineError("a workload reads from one place through one backend: give one of each")
    if options.num_accelerators is not None and options.num_accelerators < 1:
        raise PipelineError(f"--num-accelerators {options.num_accelerators}: give 1 or more")
    if options.to_gpu:
        if (options.num_accelerators or 1) > 1:
            raise PipelineError("--to-gpu computes on one GPU, which is one accelerator")
        GpuAccelerator()  # an error now, not after minutes of writing files
    metric = "AU-to-GPU" if options.to_gpu else "AU (DLIO definition)"
    begun = time.monotonic()
    with dataset_of(options.target[0], workload, size_bytes=options.size) as dataset:
        store = _store(options, dataset)
        try:
            trials = Trials(
                store, dataset, workload, seconds=options.seconds, to_gpu=options.to_gpu
            )
            best = _search(trials, options, begun)
            path = store.describe()
        finally:
            store.close()
        environment = surroundings(dataset.target)
        warning = dataset.warning()
    rows = [trials.done[number].as_json(workload, metric) for number in sorted(trials.done)]
    _print(console, rows, workload, metric, path)
    _conclude(console, best, workload, options, metric, warning)
    if options.json:
        content = {
            "schema": 1,
            "mlperf_compliant": False,
            "environment": environment,
            "active_path": path,
            "warning": warning,
            "largest_passing": best,
            "rows": rows,
        }
        write_json(options.json, content)
    return 0 if best else 1


def _search(trials: Trials, options: argparse.Namespace, begun: float) -> int:
    """The largest number that passes; one GPU stands for one accelerator."""
    if options.num_accelerators is not None:
        number = options.num_accelerators
        return number if trials.passes(number) else 0
    most = 1 if options.to_gpu else _MOST_ACCELERATORS

    def passes(number: int) -> bool:
        if trials.done and time.monotonic() - begun > options.budget:
            print(f"budget used up before {number} accelerators", file=sys.stderr)
            return False
        return trials.passes(number)

    return largest_passing(passes, most=most)


def _store(options: argparse.Namespace, dataset: Dataset) -> Store:
    backend = options.backends[0] if options.backends else backends_for(dataset.target)[0]
    if backend == "gds":
        raise PipelineError("gds reads into the GPU alone: leave --backends out, or give direct")
    prefer = None if backend == "auto" else backend
    return open_store(dataset.samples[0].path, prefer=prefer)


def _print(
    console: Console, rows: list[dict[str, Any]], workload: Workload, metric: str, path: str
) -> None:
    table = Table(box=None, pad_edge=False)
    for name in ("accelerators", metric, "samples/s", "GB/s", "mark", "passes"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            str(row["num_accelerators"]),
            f"{row['train_au_mean_percentage']:.2f} %",
            f"{row['train_throughput_samples_per_second']:,.1f}",
            f"{row['gbps']:.3f}",
            f"{100 * workload.mark:.0f} %",
            "yes" if row["passes"] else "no",
        )
    console.print(table)
    console.print(f"path: {path}", soft_wrap=True, markup=False)


def _conclude(
    console: Console,
    best: int,
    workload: Workload,
    options: argparse.Namespace,
    metric: str,
    warning: str | None,
) -> None:
    demand = workload.demand_gbps
    shown = f"{workload.name} on {workload.accelerator} ({demand:.2f} GB/s each without a wait)"
    if best:
        console.print(f"{best} x {shown} reach {metric} >= {workload.mark:.0%}", soft_wrap=True)
    else:
        console.print(f"none of {shown} reaches {metric} >= {workload.mark:.0%}", soft_wrap=True)
    if not workload.is_mlperf:
        console.print(f"{workload.name} is iopipe's own workload, none of MLPerf Storage's")
    if warning:
        console.print(f"warning: {warning}", soft_wrap=True, markup=False)
