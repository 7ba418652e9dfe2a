"""Stores of local files against each other and against fio: `python -m iopipe.bench.stores FILE`.

Each job is random aligned reads of one block size from one file, 64 MiB and more, for some
seconds.  Invariant: all read the same file the same way round the page cache or through it, and
each run is a process of its own.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from iopipe.bench.harness import Contestant, Runs, interleave, residency, write_results
from iopipe.protocols import ReadRequest, Store
from iopipe.storage import DirectStore, PosixStore, UringStore

BATCHES = {4096: 256, 1 << 17: 64, 1 << 20: 16}
"""Block size in bytes: requests a submission."""

STORES: dict[str, Callable[[], Store]] = {
    "posix": PosixStore,
    "direct, calling thread": lambda: DirectStore(num_threads=0),
    "direct, 8 threads": DirectStore,
    "uring, depth 64": UringStore,
}
_FIO = ("psync", "psync direct", "io_uring direct, depth 64")
_ONE_BUFFER = ("posix", "direct, calling thread")
"""Read one after the other, as psync does, and so into one buffer, as psync does."""


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    if options.one:
        row = _fio(options) if options.one.startswith("fio ") else _store(options)
        print(json.dumps(row))
        return
    rows = [row for block in BATCHES for row in _compare(options, block)]
    command = f"python -m iopipe.bench.stores FILE --seconds {options.seconds:g}"
    if options.json:
        write_results(
            options.json,
            command=f"{command} --rounds {options.rounds} --fio FIO --json FILE",
            cache=residency([Path(options.file)]),
            rows=rows,
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m iopipe.bench.stores", description=__doc__)
    parser.add_argument("file", help="existing file; its pages are loaded for the cached jobs")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each run")
    parser.add_argument("--rounds", type=int, default=4, help="A B B A ...")
    parser.add_argument("--fio", help="path of fio, to compare with")
    parser.add_argument("--json", type=Path, help="write the results there")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--block", type=int, default=4096, help=argparse.SUPPRESS)
    return parser


def _compare(options: argparse.Namespace, block: int) -> list[dict[str, object]]:
    names = [*STORES, *(f"fio {name}" for name in _FIO if options.fio)]
    contestants = [Contestant(name, _command(options, block, name)) for name in names]
    results = {name: Runs() for name in names}
    for number in range(options.rounds):
        order = contestants[::-1] if number % 2 else contestants
        for name, runs in interleave(order, num_rounds=1, on_run=_nothing).items():
            results[name].rows += runs.rows
    rows = []
    for name, runs in results.items():
        numbers = runs.summary()
        gbps, cpu = numbers["gbps"], numbers["cpu_s_per_gb"]
        print(
            f"{block:8} {name:32} {gbps['median']:7.3f} GB/s "
            f"({gbps['min']:.3f} to {gbps['max']:.3f}), {cpu['median']:.3f} CPU s/GB",
            flush=True,
        )
        rows.append({"name": name, "block_bytes": block, "runs": len(runs.rows), **numbers})
    return rows


def _nothing(name: str, row: object) -> None:
    """Rows are printed when a block size is done."""


def _command(options: argparse.Namespace, block: int, name: str) -> tuple[str, ...]:
    module = (sys.executable, "-m", "iopipe.bench.stores", options.file, "--one", name)
    fio = ("--fio", options.fio) if options.fio else ()
    return (*module, "--block", str(block), "--seconds", str(options.seconds), *fio)


def _store(options: argparse.Namespace) -> dict[str, float]:
    store, block = STORES[options.one](), options.block
    submissions = _submissions(options.file, block, is_one=options.one in _ONE_BUFFER)
    store.submit(submissions[0]).wait()
    start, cpu, count = time.perf_counter(), _cpu_seconds(), 0
    while time.perf_counter() - start < options.seconds:
        store.submit(submissions[count % len(submissions)]).wait()
        count += 1
    seconds, cpu = time.perf_counter() - start, _cpu_seconds() - cpu
    store.close()
    gigabytes = count * BATCHES[block] * block / 1e9
    return {"gbps": gigabytes / seconds, "cpu_s_per_gb": cpu / gigabytes}


def _submissions(path: str, block: int, *, is_one: bool) -> list[list[ReadRequest]]:
    """64 of them, made beforehand; buffers are aligned to the page."""
    batch, num_blocks = BATCHES[block], os.path.getsize(path) // block
    room = memoryview(mmap.mmap(-1, block * batch))
    buffers = [room[:block] if is_one else room[n * block :][:block] for n in range(batch)]
    draws = random.Random(1)
    return [
        [ReadRequest(path, draws.randrange(num_blocks) * block, buffer) for buffer in buffers]
        for _ in range(64)
    ]


def _cpu_seconds() -> float:
    times = os.times()
    return times.user + times.system


def _fio(options: argparse.Namespace) -> dict[str, float]:
    """One job; --iomem_align, or fio's own buffer halves its speed for cached data."""
    name = options.one.removeprefix("fio ")
    engine, _, _ = name.partition(" ")
    command = [
        *(options.fio, "--name=job", f"--filename={options.file}", "--readonly", "--rw=randread"),
        *(f"--bs={options.block}", f"--ioengine={engine}", f"--direct={int('direct' in name)}"),
        *(f"--iodepth={64 if 'depth' in name else 1}", "--iomem_align=4096", "--thread"),
        *("--norandommap", "--randrepeat=0", "--invalidate=0", "--time_based"),
        *(f"--runtime={options.seconds * 1000:.0f}ms", "--output-format=json"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    job = json.loads(done.stdout)["jobs"][0]
    read = job["read"]
    cpu_share = (job["usr_cpu"] + job["sys_cpu"]) / 100
    return {
        "gbps": read["bw_bytes"] / 1e9,
        "cpu_s_per_gb": cpu_share / (read["bw_bytes"] / 1e9),
    }


if __name__ == "__main__":
    main()
