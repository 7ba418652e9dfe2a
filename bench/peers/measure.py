"""What every contestant runs: draw batches for some seconds, print one JSON row.

Stands under the scripts of this folder.  Invariant: the same clock, the same warm-up and
the same count for all.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


def options() -> argparse.Namespace:
    """DATASET is the folder that `iopipe.bench.loader` prepared."""
    parser = argparse.ArgumentParser()
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--warmup", type=int, default=4, help="batches before the clock starts")
    parser.add_argument("--fidelity", default="exact")
    return parser.parse_args()


def measure(open_loader: Callable[[], Iterator[Any]], *, warmup: int, seconds: float) -> None:
    """`open_loader()` gives an endless iterator over batches of pixels [b, h, w, 3]."""
    start = time.perf_counter()
    batches = open_loader()
    next(batches)
    first_batch_seconds = time.perf_counter() - start
    for _ in range(warmup):
        next(batches)
    cpu_start, start, num_samples = _cpu_seconds(), time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        num_samples += len(next(batches))
    elapsed, cpu_seconds = time.perf_counter() - start, _cpu_seconds() - cpu_start
    row = {
        "samples_per_second": num_samples / elapsed,
        "cpu_seconds_per_1000": 1000 * cpu_seconds / num_samples,
        "first_batch_seconds": first_batch_seconds,
    }
    print(json.dumps(row), flush=True)


def _cpu_seconds() -> float:
    """Of this process and of its living children, threads included."""
    ticks = os.sysconf("SC_CLK_TCK")
    children = Path(f"/proc/{os.getpid()}/task").glob("*/children")
    pids = [os.getpid(), *(int(pid) for path in children for pid in path.read_text().split())]
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / ticks
