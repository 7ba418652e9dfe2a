"""What measuring costs: the meter's calls a step, and `iopipe profile` around a script.

Stands beside the other benchmarks.  Invariant: with and without come in turns in one run; the
profiled script times its own loop and does not know whether it is profiled.
"""

from __future__ import annotations

import argparse
import json
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
_NUM_BATCHES = 6_000


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
    start = time.perf_counter()
    for _ in batches:
        if meter is not None:
            meter.step()
    return time.perf_counter() - start


def profiled(*, num_rounds: int, num_workers: int) -> dict[str, Any]:
    """Microseconds that `iopipe profile` adds to a batch, and their share of a step of 5 ms.

    The loop does nothing but one step of an optimizer without parameters, so that a batch is
    short and what is added to it can be told from what others do to the machine.
    """
    script = [sys.executable, "-m", "iopipe.bench.meter", "--child", str(num_workers)]
    taken: dict[str, list[float]] = {"plain": [], "profiled": []}
    foreign = ForeignLoad()
    with tempfile.TemporaryDirectory() as folder:
        around = [sys.executable, "-m", "iopipe.cli", "profile", "--out", folder, "--"]
        for number in range(num_rounds):
            turns = [("plain", script), ("profiled", [*around, *script])]
            for name, command in turns if number % 2 else reversed(turns):
                taken[name].append(_microseconds(command))
    added = statistics.median(taken["profiled"]) - statistics.median(taken["plain"])
    return {
        "what": f"iopipe profile, {num_workers} workers, added to a batch",
        "microseconds": added,
        "plain": statistics.median(taken["plain"]),
        "plain_most": max(taken["plain"]),
        "profiled": statistics.median(taken["profiled"]),
        "profiled_most": max(taken["profiled"]),
        "share_of_5_ms": added / 1e6 / _STEP_SECONDS,
        "foreign_cores": foreign.cores(),
    }


def _microseconds(command: Sequence[str]) -> float:
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    line = next(line for line in output.splitlines() if line.startswith("{"))
    return float(json.loads(line)["microseconds"])


def _iterate(num_workers: int) -> None:
    """Times a loop of many short batches."""
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 0.01)
    data = TensorDataset(torch.zeros(_NUM_BATCHES, 4))
    lengths, before = [], time.perf_counter()
    for _ in DataLoader(data, num_workers=num_workers):
        optimizer.step()
        now = time.perf_counter()
        lengths.append(now - before)
        before = now
    # The mean of the shorter half: what others do to the machine makes batches longer.
    shorter = sorted(lengths)[: _NUM_BATCHES // 2]
    print(json.dumps({"microseconds": 1e6 * statistics.fmean(shorter)}))


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
