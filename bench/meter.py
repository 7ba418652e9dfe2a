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
_BATCH = 32


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
    """Samples/s of a script with and without `iopipe profile` around it."""
    script = [sys.executable, "-m", "iopipe.bench.meter", "--child", str(num_workers)]
    rates: dict[str, list[float]] = {"plain": [], "profiled": []}
    foreign = ForeignLoad()
    with tempfile.TemporaryDirectory() as folder:
        around = [sys.executable, "-m", "iopipe.cli", "profile", "--out", folder, "--"]
        for number in range(num_rounds):
            turns = [("plain", script), ("profiled", [*around, *script])]
            for name, command in turns if number % 2 else reversed(turns):
                rates[name].append(_rate(command))
    ratios = [one / two for one, two in zip(rates["profiled"], rates["plain"], strict=True)]
    return {
        "what": f"iopipe profile, {num_workers} workers",
        "plain": statistics.median(rates["plain"]),
        "profiled": statistics.median(rates["profiled"]),
        "step_ms": 1e3 * _BATCH / statistics.median(rates["plain"]),
        "ratio": statistics.median(ratios),
        "ratio_least": min(ratios),
        "ratio_most": max(ratios),
        "foreign_cores": foreign.cores(),
    }


def _rate(command: Sequence[str]) -> float:
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    line = next(line for line in output.splitlines() if line.startswith("{"))
    return float(json.loads(line)["samples_per_second"])


def _train(num_workers: int) -> None:
    """A small network on this processor, some 5 ms a step, fed by a loader that keeps up."""
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    torch.set_num_threads(1)
    model = torch.nn.Sequential(
        torch.nn.Linear(512, 4096), torch.nn.ReLU(), torch.nn.Linear(4096, 10)
    )
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    data = TensorDataset(torch.randn(26_000, 512))
    num_samples, start = 0, 0.0
    for number, (batch,) in enumerate(DataLoader(data, batch_size=_BATCH, num_workers=num_workers)):
        if number == 25:
            num_samples, start = 0, time.perf_counter()
        optimizer.zero_grad()
        model(batch).square().mean().backward()
        optimizer.step()
        num_samples += len(batch)
    print(json.dumps({"samples_per_second": num_samples / (time.perf_counter() - start)}))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child is not None:
        _train(options.child)
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
