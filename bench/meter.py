"""What measuring costs: the meter's calls a step, and `iopipe profile` around a script.

Stands beside the other benchmarks.  Invariant: with and without come in turns in one run; the
profiled script times its own loop and does not know whether it is profiled.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from iopipe.bench.harness import ForeignLoad, write_results

_STEP_SECONDS = 0.005
_NUM_CALLS = 20_000
_NUM_BATCHES = 10_000
_NUM_RESAMPLES = 400


def calls(*, num_rounds: int) -> dict[str, Any]:
    """Microseconds that the meter adds to a step, and their share of one of 5 ms."""
    from iopipe.meter.meter import Meter

    costs = []
    for _ in range(num_rounds):
        plain = _seconds(range(_NUM_CALLS))
        meter = Meter()
        costs.append((_seconds(meter.watch(range(_NUM_CALLS)), meter) - plain) / _NUM_CALLS)
    cost = statistics.median(costs)
    return {
        "what": "meter, host clock, calls of one step",
        "microseconds": cost * 1e6,
        "least": min(costs) * 1e6,
        "most": max(costs) * 1e6,
        "share_of_5_ms": cost / _STEP_SECONDS,
    }


def _seconds(batches: Iterable[int], meter: Any = None) -> float:
    """On the core: what others do to the machine takes little part in it."""
    start = time.thread_time()
    for _ in batches:
        if meter is not None:
            meter.step()
    return time.thread_time() - start


def profiled(*, num_rounds: int, num_workers: int) -> dict[str, Any]:
    """What `iopipe profile` adds to a batch, and its share of a step of 5 ms.

    The loop does nothing but one step of an optimizer without parameters, so that a batch is
    short and what is added to it can be told from what others do to the machine.  Processor time
    is that of the trainer and its workers together: were none of it hidden behind the step, a
    step would be so much longer.  Others take less part in it than in the wall time.
    """
    script = [sys.executable, "-m", "iopipe.bench.meter", "--child", str(num_workers)]
    pairs: list[dict[str, dict[str, float]]] = []
    foreign = ForeignLoad()
    with tempfile.TemporaryDirectory() as folder:
        around = [sys.executable, "-m", "iopipe.cli", "profile", "--out", folder, "--"]
        for number in range(num_rounds):
            turns = [("plain", script), ("profiled", [*around, *script])]
            ordered = turns if number % 2 else turns[::-1]
            pairs.append({name: _measured(command) for name, command in ordered})
    return {
        "what": f"iopipe profile, {num_workers} workers, added to a batch",
        "num_pairs": num_rounds,
        **_added(pairs, "microseconds"),
        **{f"cpu_{name}": value for name, value in _added(pairs, "cpu_microseconds").items()},
        "foreign_cores": foreign.cores(),
    }


def _added(pairs: Sequence[dict[str, dict[str, float]]], what: str) -> dict[str, float]:
    """The median of the pairs' differences, and the 95 % interval of that median."""
    added = [pair["profiled"][what] - pair["plain"][what] for pair in pairs]
    draws = random.Random(0)
    medians = sorted(
        statistics.median(draws.choices(added, k=len(added))) for _ in range(_NUM_RESAMPLES)
    )
    high = medians[-1 - _NUM_RESAMPLES // 40]
    return {
        "microseconds": statistics.median(added),
        "low": medians[_NUM_RESAMPLES // 40],
        "high": high,
        "plain": statistics.median(pair["plain"][what] for pair in pairs),
        "share_of_5_ms": statistics.median(added) / 1e6 / _STEP_SECONDS,
        "share_of_5_ms_at_most": high / 1e6 / _STEP_SECONDS,
    }


def _measured(command: Sequence[str]) -> dict[str, float]:
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    line = next(line for line in output.splitlines() if line.startswith("{"))
    found: dict[str, float] = json.loads(line)
    return found


def _iterate(num_workers: int) -> None:
    """Times a loop of many short batches."""
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 0.01)
    data = TensorDataset(torch.zeros(_NUM_BATCHES, 4))
    cpu_seconds = _cpu_seconds()
    lengths, before = [], time.perf_counter()
    for _ in DataLoader(data, num_workers=num_workers):
        optimizer.step()
        now = time.perf_counter()
        lengths.append(now - before)
        before = now
    # The mean of the shorter half: what others do to the machine makes batches longer.
    shorter = sorted(lengths)[: _NUM_BATCHES // 2]
    added = {
        "microseconds": 1e6 * statistics.fmean(shorter),
        "cpu_microseconds": 1e6 * (_cpu_seconds() - cpu_seconds) / _NUM_BATCHES,
    }
    print(json.dumps(added))


def _cpu_seconds() -> float:
    """Of this process and of its workers that have ended."""
    times = os.times()
    return times.children_user + times.children_system + time.process_time()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child is not None:
        _iterate(options.child)
        return
    rows = [calls(num_rounds=options.rounds)]
    rows += [profiled(num_rounds=options.rounds, num_workers=workers) for workers in (0, 1)]
    for row in rows:
        print(json.dumps(row))
    if options.json is not None:
        write_results(
            options.json,
            command="python -m iopipe.bench.meter",
            cache={"state": "no files are read"},
            rows=rows,
        )


if __name__ == "__main__":
    main()
