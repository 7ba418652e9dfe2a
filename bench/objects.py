"""`ObjectStore` against boto3, s3fs and plain obstore: `python -m iopipe.bench.objects FOLDER`.

All read the same random ranges of one object of one nginx on this machine, which the command
starts, in turns and each in a process of its own; then nginx lets 50 requests a second through,
and what counts is who gets 200 of 200 ranges and how often the server had to say no.  boto3 and
s3fs come from an environment of their own (`pip install boto3 's3fs>=2026.9' obstore`), since
they disagree with other packages about versions.  `--tune URL` measures part sizes and numbers
of connections on a given object instead.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from iopipe.bench.harness import Runs, run_one, write_results
from iopipe.bench.nginx import nginx
from iopipe.protocols import ReadRequest
from iopipe.storage.objects import ObjectStore

PEERS = Path(__file__).parent / "peers" / "read_objects.py"
NUM_BYTES = 256 << 20
JOBS = ((128 << 10, 16), (8 << 20, 8))
"""Bytes of a range, and how many at once."""
THROTTLED = (64 << 10, 16)
REQUESTS_PER_SECOND = 50
PACKAGES = ("boto3", "s3fs", "obstore")


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    if options.one:
        block, num_threads = options.one
        print(json.dumps(_ours(options.folder, block, num_threads, options.seconds)))
        return
    if options.tune:
        print(json.dumps(tuned(options.tune), indent=1))
        return
    root = Path(options.folder, "root")
    (root / "shards").mkdir(parents=True, exist_ok=True)
    (root / "shards" / "object.bin").write_bytes(os.urandom(NUM_BYTES))
    rows = [row for job in JOBS for row in _compare(options, root, job)]
    rows += _throttled(options, root)
    with tempfile.TemporaryDirectory() as folder, nginx(Path(folder), root=root) as server:
        rows += [{"name": "tuning", **row} for row in tuned(f"{server.url}shards/object.bin")]
    if options.json:
        write_results(
            options.json,
            command=f"python -m iopipe.bench.objects FOLDER --rounds {options.rounds} "
            f"--seconds {options.seconds:g} --peers-python PYTHON --json FILE",
            cache={"server": _nginx_version(), "peers": _versions(options.peers_python)},
            rows=rows,
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m iopipe.bench.objects", description=__doc__)
    parser.add_argument("folder", help="for the server's files, best on tmpfs")
    parser.add_argument("--peers-python", default=sys.executable, help="has boto3, s3fs, obstore")
    parser.add_argument("--rounds", type=int, default=5, help="A B C, C B A, ...")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each run")
    parser.add_argument("--json", type=Path, help="write the results there")
    parser.add_argument("--tune", metavar="URL", help="of an object of 64 MiB or more")
    parser.add_argument("--one", type=int, nargs=2, help=argparse.SUPPRESS)
    return parser


# ---- who is fastest ------------------------------------------------------------------


def _compare(options: argparse.Namespace, root: Path, job: tuple[int, int]) -> list[dict[str, Any]]:
    results: dict[str, Runs] = {}
    with tempfile.TemporaryDirectory() as folder, nginx(Path(folder), root=root) as server:
        commands = _commands(options, server.url, job, options.seconds)
        for number in range(options.rounds):
            for name in list(commands)[:: -1 if number % 2 else 1]:
                results.setdefault(name, Runs()).rows.append(run_one(commands[name]))
    rows = []
    for name in commands:
        numbers = results[name].summary()
        row = {"name": name, "block_bytes": job[0], "num_threads": job[1], **numbers}
        rows.append({**row, "runs": options.rounds, **_ratios(name, results)})
        print(f"{job[0] >> 10:6} KiB {name:8} {_shown(rows[-1])}", flush=True)
    return rows


def _ratios(name: str, results: Mapping[str, Runs]) -> dict[str, float]:
    """Ours to each other, round by round, the median of it: what the machine does else strikes
    both."""
    if name != "iopipe":
        return {}
    ours = [row["mib_per_second"] for row in results[name].rows]
    return {
        f"to_{peer}": statistics.median(
            mine / row["mib_per_second"] for mine, row in zip(ours, runs.rows, strict=True)
        )
        for peer, runs in results.items()
        if peer != name
    }


def _shown(row: Mapping[str, Any]) -> str:
    speed, cpu = row["mib_per_second"], row["cpu_s_per_gib"]
    ratios = {name: round(value, 2) for name, value in row.items() if name.startswith("to_")}
    return (
        f"{speed['median']:6.0f} MiB/s ({speed['min']:.0f} to {speed['max']:.0f}), "
        f"{cpu['median']:.2f} CPU s/GiB {ratios or ''}"
    )


def _commands(
    options: argparse.Namespace, url: str, job: tuple[int, int], seconds: float
) -> dict[str, tuple[str, ...]]:
    numbers, endpoint = tuple(map(str, job)), url.rstrip("/")
    ours = (sys.executable, "-m", "iopipe.bench.objects", endpoint, "--one", *numbers)
    ours = (*ours, "--seconds", str(seconds))
    rest = (*numbers, str(NUM_BYTES), str(seconds))
    peers = {name: (options.peers_python, str(PEERS), name, endpoint, *rest) for name in PACKAGES}
    return {"iopipe": ours, **peers}


def _ours(endpoint: str, block: int, num_threads: int, seconds: float) -> dict[str, float]:
    """The same ranges through one store, into buffers of ours."""
    sys.path.insert(0, str(PEERS.parent))
    from read_objects import KEYS, measured, offsets_of  # type: ignore[import-not-found]

    store = ObjectStore(
        "s3://shards",
        options={
            "endpoint": endpoint,
            "region": "us-east-1",
            "access_key_id": KEYS[0],
            "secret_access_key": KEYS[1],
            "virtual_hosted_style_request": False,
        },
        concurrency=num_threads,
    )
    path, batch = "s3://shards/object.bin", 4 * num_threads
    buffers = [memoryview(bytearray(block)) for _ in range(batch)]

    def read(offsets: list[int], _: int) -> int:
        pairs = zip(offsets, buffers, strict=False)
        return sum(store.submit([ReadRequest(path, at, buffer) for at, buffer in pairs]).wait())

    row: dict[str, float] = measured(
        read, offsets_of(block, NUM_BYTES), block, batch=batch, seconds=seconds
    )
    store.close()
    return {**row, "hedged": store.num_hedged}


# ---- a server that says no -----------------------------------------------------------


def _throttled(options: argparse.Namespace, root: Path) -> list[dict[str, Any]]:
    results: dict[str, Runs] = {}
    for number in range(options.rounds):
        for name in ("obstore", "iopipe")[:: -1 if number % 2 else 1]:
            with (
                tempfile.TemporaryDirectory() as folder,
                nginx(Path(folder), root=root, requests_per_second=REQUESTS_PER_SECOND) as server,
            ):
                row = run_one(_commands(options, server.url, THROTTLED, 0)[name])
                row["refused"] = server.count(503)
            results.setdefault(name, Runs()).rows.append(row)
    rows = []
    for name, runs in results.items():
        numbers = runs.summary()
        rows.append({"name": name, "throttled": REQUESTS_PER_SECOND, "runs": len(runs.rows)})
        rows[-1] |= {key: numbers[key] for key in ("served", "refused", "seconds")}
        print(f"throttled {name:8} {rows[-1]}", flush=True)
    return rows


# ---- settings ------------------------------------------------------------------------


def tuned(url: str) -> list[dict[str, float]]:
    """64 MiB of the object for each part size and number of connections, the best first."""
    rows = []
    buffer = memoryview(bytearray(64 << 20))
    for part_mib in (1, 2, 4, 8, 16):
        for concurrency in (4, 8, 16, 32):
            store = ObjectStore(url, part_bytes=part_mib << 20, concurrency=concurrency)
            speeds = []
            for _ in range(4):
                start = time.perf_counter()
                num_bytes = store.read_into(url, 0, buffer)
                speeds.append(num_bytes / (time.perf_counter() - start) / 2**20)
            store.close()
            speed = statistics.median(speeds[1:])
            rows.append({"part_mib": part_mib, "concurrency": concurrency, "mib_per_second": speed})
    return sorted(rows, key=lambda row: -row["mib_per_second"])


def _versions(python: str) -> dict[str, str]:
    code = f"from importlib.metadata import version as v; print(*map(v, {PACKAGES!r}))"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    return dict(zip(PACKAGES, done.stdout.split(), strict=True))


def _nginx_version() -> str:
    done = subprocess.run(["nginx", "-v"], capture_output=True, text=True, check=True)
    return done.stderr.strip().rpartition(" ")[2]


if __name__ == "__main__":
    main()
