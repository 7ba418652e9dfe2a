"""`iopipe bench kernels`: every case beside what users would write instead.

Stands between the command line and the cases.  Invariant: nothing is timed that differs
from the twin, and all contestants of a case take turns in one process with a cold L2.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from iopipe.bench.harness import write_results
from iopipe.bench.kernels.cases import Case
from iopipe.bench.kernels.catalogue import all_cases
from iopipe.bench.kernels.rig import Rig, measured_rig
from iopipe.bench.kernels.timing import Run
from iopipe.bench.kernels.verify import Verifier
from iopipe.kernels.store import plain_config
from iopipe.kernels.tuning import resolve

_ROUNDS = 31
_OURS = "iopipe"
_HEURISTIC = "heuristic"


def bench_kernels(
    modules: Sequence[ModuleType], path: Path, *, kernel: str | None = None
) -> list[dict[str, Any]]:
    """Time every case, print and write its row; the rows.

    Raises PipelineError without a CUDA device or for a kernel that is not there, DataError
    where a kernel differs from its twin.
    """
    rig = measured_rig("iopipe bench kernels")
    rows = rows_of(all_cases(modules, "cuda", kernel=kernel), rig)
    chosen = f" --kernel {kernel}" if kernel else ""
    write_results(
        path,
        command=f"iopipe bench kernels{chosen} --json FILE",
        cache={
            "state": "L2 cold",
            "copy_peak_bytes_per_second": rig.copy_peak,
            "empty_launch_microseconds": rig.floor_microseconds,
        },
        rows=rows,
    )
    return rows


def rows_of(cases: Iterable[Case], rig: Rig) -> list[dict[str, Any]]:
    """One row a case, printed when it is there."""
    rows = []
    for case in cases:
        rows.append(_row(case, rig))
        _show(rows[-1])
    return rows


def _row(case: Case, rig: Rig) -> dict[str, Any]:
    config = resolve(case.kernel, case.problem)
    heuristic = case.kernel.heuristic(case.problem)
    Verifier(case, config)
    runs: dict[str, Run] = {_OURS: partial(case.run, None), **case.baselines}
    if config != heuristic:
        runs[_HEURISTIC] = partial(case.run, heuristic)
    times = rig.timer.alone(runs, num_rounds=_ROUNDS)
    summaries = {name: _summary(values) for name, values in times.items()}
    ours = summaries.pop(_OURS)
    return {
        "kernel": case.kernel.name,
        "shape": case.name,
        "dtype": list(case.problem.dtypes),
        "config": plain_config(config),
        "microseconds": ours,
        "bytes": case.num_bytes,
        "fraction_of_copy_peak": rig.fraction_of_peak(case.num_bytes, ours["median"]),
        "baselines": summaries,
    }


def _summary(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def _show(row: Mapping[str, Any]) -> None:
    ours = row["microseconds"]["median"]
    others = ", ".join(
        f"{name} {times['median']:.1f} ({times['median'] / ours:.2f} x)"
        for name, times in row["baselines"].items()
    )
    print(
        f"{row['kernel']}, {row['shape']}: {ours:.1f} us, "
        f"{100 * row['fraction_of_copy_peak']:.0f} % of the copy peak; {others}",
        flush=True,
    )
