"""The clock of loaders, ours and others': draw batches for some seconds, one row.

Stands under `loader_run` and the scripts of bench/peers.  Invariant: the same options, the
same warm-up, the same count and the same row for all; the standard library only, since the
Pythons of the peers have no iopipe.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any


def add_options(parser: argparse.ArgumentParser) -> None:
    """What one run of any loader can be told."""
    parser.add_argument("dataset", help="shards, a folder, a pattern or a manifest")
    parser.add_argument("--decode", default="cpu", metavar="ENGINE", help="of images (cpu)")
    parser.add_argument("--fidelity", choices=("exact", "scaled"), default="exact")
    parser.add_argument("--size", type=int, default=224, help="pixels of each side (224)")
    parser.add_argument("--batch", type=int, default=256, help="samples a batch (256)")
    parser.add_argument("--threads", type=int, help="that decode, or None: found out")
    parser.add_argument("--workers", type=int, help="processes, or None: found out")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--shuffle", choices=("full", "block", "none"), default="full")
    parser.add_argument("--seconds", type=float, default=8.0, help="that are measured (8)")
    parser.add_argument("--warmup", type=int, default=4, metavar="N", help="batches before (4)")


def measured(
    open_loader: Callable[[], Generator[tuple[int, int], None, None]],
    options: argparse.Namespace,
    *,
    wait: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """`open_loader()` gives (samples, bytes) of batches without end, and is closed behind the
    last one; `wait` comes back when everything that was handed over is where it should be.

    The clock of the first batch starts before the loader is opened, that of the rate after the
    warm-up.  gbps counts the bytes of the batches, 10^9 of them a second.
    """
    start = time.perf_counter()
    batches = open_loader()
    next(batches)
    wait()
    first_batch_seconds = time.perf_counter() - start
    for _ in range(options.warmup):
        next(batches)
    wait()
    cpu_start, start = family_cpu_seconds(os.getpid()), time.perf_counter()
    num_samples = num_bytes = 0
    while time.perf_counter() - start < options.seconds:
        samples, size = next(batches)
        num_samples += samples
        num_bytes += size
    wait()
    elapsed = time.perf_counter() - start
    cpu_seconds = family_cpu_seconds(os.getpid()) - cpu_start
    batches.close()
    return {
        "dataset": Path(str(options.dataset)).name,
        "decode": options.decode,
        "fidelity": options.fidelity,
        "device": options.device,
        "samples_per_second": num_samples / elapsed,
        "cpu_seconds_per_1000": 1000 * cpu_seconds / num_samples,
        "gbps": num_bytes / elapsed / 1e9,
        "first_batch_seconds": first_batch_seconds,
        "threads": options.threads or 0,
        "workers": options.workers or 0,
    }


def show(row: dict[str, Any]) -> None:
    """The last line that the harness reads."""
    print(json.dumps(row), flush=True)


def family(pid: int) -> list[int]:
    """A process and its descendants that are alive."""
    members, waiting = [], [pid]
    while waiting:
        current = waiting.pop()
        members.append(current)
        with contextlib.suppress(OSError):  # it ended meanwhile
            for children in Path(f"/proc/{current}/task").glob("*/children"):
                waiting += [int(child) for child in children.read_text().split()]
    return members


def family_cpu_seconds(pid: int) -> float:
    """CPU time of a process and of its descendants that are alive, threads included: a fork
    server's workers are grandchildren."""
    return sum(map(_cpu_seconds, family(pid)))


def _cpu_seconds(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:  # it ended meanwhile
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
