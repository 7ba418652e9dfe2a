"""One way of writing loose files as tar archives: a run of `iopipe.bench.jobs`.

Invariant: the clock covers what this way needs and nothing else, and what it wrote is
compared with the files before a row is printed.  `seconds` begins when the imports are
behind, iopipe's worker processes still to be started; `command_seconds` begins with the
process.  For tar, which imports nothing, they are the same.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import tarfile
import time
from pathlib import Path
from typing import Any


def write_iopipe(loose: Path, out: Path, *, workers: int, samples: int) -> dict[str, float]:
    from iopipe.jobs import ShardOptions, shard

    start = time.perf_counter()
    shard(loose, out, ShardOptions(shard_samples=samples), num_workers=workers)
    return _row(start)


def write_webdataset(loose: Path, out: Path, *, workers: int, samples: int) -> dict[str, float]:
    import webdataset

    out.mkdir()
    start = time.perf_counter()
    pattern = str(out / "shard-%06d.tar")
    with webdataset.ShardWriter(pattern, maxcount=samples, verbose=0) as writer:
        for name in sorted(os.listdir(loose)):
            key, _, field = name.rpartition(".")
            writer.write({"__key__": key, field: (loose / name).read_bytes()})
    return _row(start)


def write_tar(loose: Path, out: Path, *, workers: int, samples: int) -> dict[str, float]:
    out.mkdir()
    start = time.perf_counter()
    subprocess.run(["tar", "cf", str(out / "all.tar"), "-C", str(loose), "."], check=True)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "command_seconds": seconds}


def _row(start: float) -> dict[str, float]:
    seconds = time.perf_counter() - start
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    born = ticks / os.sysconf("SC_CLK_TCK")  # seconds after the machine's start
    return {"seconds": seconds, "command_seconds": time.clock_gettime(time.CLOCK_BOOTTIME) - born}


WAYS: dict[str, Any] = {"iopipe": write_iopipe, "tar": write_tar, "webdataset": write_webdataset}


def check(loose: Path, out: Path) -> int:
    """Compare names and sizes of all members with the files; bytes of the files."""
    wanted = {entry.name: entry.stat().st_size for entry in os.scandir(loose)}
    found: dict[str, int] = {}
    for path in sorted(out.glob("*.tar")):
        with tarfile.open(path) as archive:
            members = [member for member in archive if member.isfile()]
        found |= {member.name.removeprefix("./"): member.size for member in members}
    if found != wanted:
        raise SystemExit(f"{len(found)} members were written, {len(wanted)} files are there")
    return sum(wanted.values())


def main() -> None:
    """Write, check, remove, print one JSON row."""
    parser = argparse.ArgumentParser()
    parser.add_argument("way", choices=WAYS)
    parser.add_argument("loose", type=Path)
    parser.add_argument("out", type=Path, help="a folder that is made, and removed again")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--samples", type=int, default=1000, help="a shard")
    options = parser.parse_args()
    try:
        row = WAYS[options.way](
            options.loose, options.out, workers=options.workers, samples=options.samples
        )
        num_bytes = check(options.loose, options.out)
    finally:
        shutil.rmtree(options.out, ignore_errors=True)
        os.sync()  # nothing is on its way to the disk when the next run begins
    print(json.dumps({**row, "megabytes_per_second": num_bytes / 1e6 / row["seconds"]}))


if __name__ == "__main__":
    main()
