"""`iopipe bench loader`: how fast batches of a dataset come when nothing is done with them.

Stands between the command line and `loader_run`.  Invariant: every figure is of a process of
its own, so that the first batch and the memory are those of a fresh start.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any, get_args

from iopipe.bench.harness import residency, run_one, write_results
from iopipe.bench.measure import add_options
from iopipe.errors import PipelineError
from iopipe.stages import EngineName

_SHARE_OF_A_TRY = 4
_LEAST_SECONDS = 1.0
_COLUMNS = (
    *("dataset", "decode", "fidelity", "device", "samples_per_second", "cpu_seconds_per_1000"),
    *("gbps", "first_batch_seconds", "peak_rss_bytes", "threads", "workers"),
)

Setting = tuple[int, int]
"""(decode threads, worker processes); one of them is 0."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Fill the parser of the command."""
    add_options(parser)
    parser.add_argument("--json", type=Path, required=True, help="where the results go")
    parser.set_defaults(run=run_command)


def run_command(options: argparse.Namespace) -> int:
    """Find the best setting where none is given, measure it, write it down; the exit code."""
    if options.decode not in get_args(EngineName):
        known = ", ".join(get_args(EngineName))
        raise PipelineError(f"--decode is {options.decode!r}; iopipe has {known}")
    from iopipe.bench.loader_run import opened  # loads torch, which no other command needs

    source, has_images = opened(options.dataset)
    files = [Path(shard) for shard in source.shards if os.path.isfile(shard)]
    before = residency(files)
    tries = settings(
        len(os.sched_getaffinity(0)), options.threads, options.workers, has_images=has_images
    )
    tried = []
    if len(tries) > 1:
        seconds = max(_LEAST_SECONDS, options.seconds / _SHARE_OF_A_TRY)
        for setting in tries:
            tried.append(measure_setting(options, setting, seconds))
            _show(tried[-1])
    best = max(tried, key=lambda row: float(row["samples_per_second"]), default=None)
    setting = tries[0] if best is None else (int(best["threads"]), int(best["workers"]))
    row = measure_setting(options, setting, options.seconds)
    _show(row, chosen=True)
    write_results(
        options.json,
        command=f"iopipe bench loader DATASET --decode {options.decode} --fidelity "
        f"{options.fidelity} --size {options.size} --batch {options.batch} --device "
        f"{options.device} --shuffle {options.shuffle} --seconds {options.seconds:g} --json FILE",
        cache={"before": before, "after": residency(files)},
        rows=[row],
        tried=tried,
    )
    return 0


def settings(
    num_cpus: int, threads: int | None, workers: int | None, *, has_images: bool
) -> list[Setting]:
    """What is tried: six settings at most, one where it is given."""
    if threads and workers:
        raise PipelineError("threads decode, or worker processes do: give --threads or --workers")
    if threads and not has_images:
        raise PipelineError("no images are decoded here: leave --threads out, or give --workers")
    if threads or workers:
        return [(threads or 0, workers or 0)]
    by_threads = {max(1, num_cpus // 2), num_cpus, 2 * num_cpus} if has_images else {0}
    by_workers = {num_cpus // 4, max(1, num_cpus // 2), num_cpus} - {0}
    return [
        *((count, 0) for count in sorted(by_threads) if threads is None),
        *((0, count) for count in sorted(by_workers) if workers is None),
    ] or [(0, 0)]


def measure_setting(
    options: argparse.Namespace, setting: Setting, seconds: float
) -> dict[str, Any]:
    """A row of the results."""
    threads, workers = setting
    given = {
        "decode": options.decode,
        "fidelity": options.fidelity,
        "size": options.size,
        "batch": options.batch,
        "threads": threads,
        "workers": workers,
        "device": options.device,
        "shuffle": options.shuffle,
        "seconds": seconds,
        "warmup": options.warmup,
    }
    command = [sys.executable, "-m", "iopipe.bench.loader_run", options.dataset]
    for name, value in given.items():
        command += [f"--{name}", str(value)]
    try:
        row = run_one(command)
    except RuntimeError as error:  # its own words went to standard error
        raise PipelineError(f"a run failed: {error}") from error
    row["peak_rss_bytes"] = row.pop("peak_pss_bytes")  # what processes share is counted once
    return {
        **{name: row[name] for name in _COLUMNS},
        "foreign_cores": row["foreign_cores"],
        "seconds": seconds,
    }


def _show(row: dict[str, Any], *, chosen: bool = False) -> None:
    how = f"{row['threads']} threads" if row["threads"] else f"{row['workers']} workers"
    if not row["threads"] and not row["workers"]:
        how = "this process"
    print(
        f"{'measured' if chosen else 'tried':9} {how:13} {row['samples_per_second']:12,.0f}/s "
        f"{row['gbps']:7.3f} GB/s  {row['cpu_seconds_per_1000']:8.4f} CPU s/1000  first "
        f"{row['first_batch_seconds']:5.2f} s  {row['peak_rss_bytes'] / 1e6:6.0f} MB  "
        f"foreign cores {row['foreign_cores']:.2f}",
        flush=True,
    )
