"""One way of writing loose files as tar archives: a run of `iopipe.bench.jobs`.

Invariant: the clock covers what this way needs and nothing else, and what it wrote is
compared with the files before a row is printed.  iopipe and tar are timed as whole commands,
from the start of the process to its end; webdataset, whose import takes longer than either,
from its first sample on.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any


def write_iopipe(loose: Path, out: Path, *, workers: int, samples: int) -> dict[str, float]:
    command = [sys.executable, "-m", "iopipe.cli", "convert", str(loose), str(out), "--json",
               "--workers", str(workers), "--shard-samples", str(samples)]  # fmt: skip
    start = time.perf_counter()
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "job_seconds": json.loads(answer.stdout)["seconds"]}


def write_tar(loose: Path, out: Path, *, workers: int, samples: int) -> dict[str, float]:
    out.mkdir()
    start = time.perf_counter()
    subprocess.run(["tar", "cf", str(out / "all.tar"), "-C", str(loose), "."], check=True)
    return {"seconds": time.perf_counter() - start}


def write_webdataset(loose: Path, out: Path, *, workers: int, samples: int) -> dict[str, float]:
    import webdataset

    out.mkdir()
    start = time.perf_counter()
    pattern = str(out / "shard-%06d.tar")
    with webdataset.ShardWriter(pattern, maxcount=samples, verbose=0) as writer:
        for name in sorted(os.listdir(loose)):
            key, _, field = name.rpartition(".")
            writer.write({"__key__": key, field: (loose / name).read_bytes()})
    return {"seconds": time.perf_counter() - start}


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
    os.sync()  # nothing of an earlier run is on its way to the disk
    try:
        row = WAYS[options.way](
            options.loose, options.out, workers=options.workers, samples=options.samples
        )
        num_bytes = check(options.loose, options.out)
    finally:
        shutil.rmtree(options.out, ignore_errors=True)
    print(json.dumps({**row, "megabytes_per_second": num_bytes / 1e6 / row["seconds"]}))


if __name__ == "__main__":
    main()
