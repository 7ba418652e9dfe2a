"""The stores beside fio: `python -m iopipe.bench.storage.against_fio FILE`.

They are measured as `iopipe bench storage` measures them.  Each job is random aligned reads of one
block size from one file for some seconds.  Invariant: all read the same file the same way round the
page cache or through it, A B B A; what others did meanwhile is noted beside each number.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from iopipe.bench.harness import ForeignLoad, Runs, residency, write_results
from iopipe.bench.storage.backends import open_for
from iopipe.bench.storage.jobs import Grid, Job
from iopipe.bench.storage.measure import measure
from iopipe.bench.storage.page_cache import fill
from iopipe.bench.storage.targets import target_of
from iopipe.jobs.command import size_in_bytes

BLOCKS = (4096, 128 << 10, 1 << 20)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ours:
    """A job of ours, and the job of fio's that it is to be compared with."""

    backend: str
    direct: bool
    queue_depth: int
    batch: int | None
    """None: as the benchmark chooses where the data lies in memory."""
    fio: str

    def job(self, block_bytes: int) -> Job:
        grid = Grid(
            backends=(self.backend,),  # type: ignore[arg-type]
            block_bytes=(block_bytes,),
            queue_depths=(self.queue_depth,),
            accesses=("random",),
            caches=("warm",),
            direct=(self.direct,),
            batch=self.batch,
        )
        (job,) = grid.jobs(in_memory=True)
        return job


def _ours(backend: str, *, batch: int | None, fio: str, depth: int = 1) -> Ours:
    is_direct = backend != "posix"
    return Ours(backend=backend, direct=is_direct, queue_depth=depth, batch=batch, fio=fio)


OURS: dict[str, Ours] = {
    "posix": _ours("posix", batch=None, fio="fio psync"),
    "posix, a request a call": _ours("posix", batch=1, fio="fio psync"),
    "direct": _ours("direct", batch=None, fio="fio psync direct"),
    "direct, a request a call": _ours("direct", batch=1, fio="fio psync direct"),
    "uring, depth 64": _ours("uring", batch=None, depth=64, fio="fio io_uring direct, depth 64"),
}


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    path = Path(options.file)
    fill(path)
    rows = [row for block in options.blocks for row in _compare(options, block)]
    if options.json:
        command = f"python -m iopipe.bench.storage.against_fio FILE --seconds {options.seconds:g}"
        write_results(
            options.json,
            command=f"{command} --rounds {options.rounds} --json FILE",
            cache=residency([path]),
            rows=rows,
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m iopipe.bench.storage.against_fio")
    parser.add_argument("file", help="existing file; its pages are loaded for the cached jobs")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each run")
    parser.add_argument("--rounds", type=int, default=6, help="A B B A ...")
    parser.add_argument("--blocks", type=_sizes, default=BLOCKS, help="4KiB,128KiB,1MiB")
    parser.add_argument("--fio", default="fio", help="the program (fio)")
    parser.add_argument("--json", type=Path, help="write the results there")
    return parser


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(size_in_bytes(part) for part in text.split(","))


def _compare(options: argparse.Namespace, block: int) -> list[dict[str, Any]]:
    names = []
    for name, one in OURS.items():
        names += [name] + [one.fio] * (one.fio not in names)
    results = {name: Runs() for name in names}
    for number in range(options.rounds):
        for name in names[:: -1 if number % 2 else 1]:
            foreign = ForeignLoad()
            row = (
                measure_ours(options, block, name)
                if name in OURS
                else run_fio(options, block, name)
            )
            results[name].rows.append({**row, "foreign_cores": foreign.cores()})
    return [_row(name, block, results) for name in names]


def _row(name: str, block: int, results: Mapping[str, Runs]) -> dict[str, Any]:
    runs = results[name]
    numbers = runs.summary()
    row: dict[str, Any] = {"name": name, "block_bytes": block, "runs": len(runs.rows), **numbers}
    said = ""
    if name in OURS:
        row["job"] = OURS[name].job(block).as_json()
        row["beside"] = OURS[name].fio
        theirs = results[OURS[name].fio]
        row["ratio"] = ratio_of(runs, theirs, "gbps")
        row["cpu_ratio"] = ratio_of(theirs, runs, "cpu_s_per_gb")
        said = ", {median:.3f} ({min:.3f} to {max:.3f}) of fio's".format(**row["ratio"])
        said += ", by CPU time {median:.3f} ({min:.3f} to {max:.3f})".format(**row["cpu_ratio"])
    gbps = numbers["gbps"]
    print(
        f"{block:8} {name:32} {gbps['median']:7.3f} GB/s ({gbps['min']:.3f} to {gbps['max']:.3f}), "
        f"{numbers['cpu_s_per_gb']['median']:.3f} CPU s/GB{said}",
        flush=True,
    )
    return row


def ratio_of(ours: Runs, theirs: Runs, name: str) -> dict[str, float]:
    """Of the numbers of each round: what slows a whole round down is not ours."""
    pairs = zip(ours.rows, theirs.rows, strict=True)
    ratios = [one[name] / other[name] for one, other in pairs]
    return {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}


def measure_ours(options: argparse.Namespace, block: int, name: str) -> dict[str, float]:
    job = OURS[name].job(block)
    with target_of(options.file, size_bytes=0, makes=False) as target:
        store = open_for(job, target)
        # Once before, so that files are open and threads are there.
        measure(store, job, target, seconds=options.seconds / 10, repeat=1, verifier=None)
        row = measure(store, job, target, seconds=options.seconds, repeat=0, verifier=None)
        store.close()
    return {"gbps": row.gbps, "cpu_s_per_gb": row.cpu_seconds_per_gb}


def run_fio(options: argparse.Namespace, block: int, name: str) -> dict[str, float]:
    """One job; --iomem_align, or fio's own buffer halves its speed for cached data."""
    engine = name.split()[1]
    command = [
        *(options.fio, "--name=job", f"--filename={options.file}", "--readonly", "--rw=randread"),
        *(f"--bs={block}", f"--ioengine={engine}", f"--direct={int('direct' in name)}"),
        *(f"--iodepth={64 if 'depth' in name else 1}", "--iomem_align=4096", "--thread"),
        *("--norandommap", "--randrepeat=0", "--invalidate=0", "--time_based"),
        *(f"--ramp_time={options.seconds * 100:.0f}ms",),
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
