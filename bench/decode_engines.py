"""How fast each engine brings JPEG shards to a normalised batch on the GPU, beside DALI alone.

`python -m iopipe.bench.decode_engines --images DIR --json FILE`, from a checkout (the peers'
scripts do not ship), with DALI and nvImageCodec installed; `--device cpu` for a rehearsal.
DALI's own threads, share of the JPEG engine and decoder are swept first; then all take turns in
processes of their own, as often as the time budget allows.  What fails is a row with its error,
and the file is written anew after every run.
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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import iopipe
from iopipe.bench.harness import residency, run_one, write_results
from iopipe.bench.photographs import jpegs_in
from iopipe.readers.index import load_index
from iopipe.readers.wds2idx import write_wds2idx

_PEERS = Path(__file__).resolve().parent / "peers"
_LOADS = (0.65, 0.8, 0.95)
_SWEEP_SECONDS = 1.2
_RUN_TIMEOUT_SECONDS = 60.0
_RATE = "samples_per_second"


def prepare(images: Path, folder: Path, *, num_samples: int, num_shards: int) -> list[Path]:
    """The JPEGs of `images`, repeated in shuffled order, as shards with DALI's index."""
    files = jpegs_in(images)
    order = [files[number % len(files)] for number in range(num_samples)]
    random.Random(0).shuffle(order)
    with iopipe.DatasetWriter(
        folder / "shards", max_samples=-(-num_samples // num_shards)
    ) as writer:
        for number, path in enumerate(order):
            writer.write({"__key__": f"{number:06d}", "jpg": path.read_bytes()})
    shards = sorted((folder / "shards").glob("*.tar"))
    store = iopipe.PosixStore()
    for shard in shards:
        write_wds2idx(load_index(store, str(shard)), f"{shard}.idx")
    store.close()
    return shards


def main() -> None:
    """Prepare, sweep, take turns, write the results."""
    options = _options()
    deadline = time.monotonic() + options.budget
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        shards = prepare(options.images, folder, num_samples=options.samples, num_shards=16)
        before = residency(shards)
        swept = _swept(folder, options)
        contestants = _contestants(folder, options, swept)
        runs: dict[str, list[Mapping[str, float]]] = {one: [] for one in contestants}
        errors: dict[str, str] = {}
        longest = 0.0
        for round_number in range(options.rounds):
            for one, command in contestants.items():
                left = deadline - time.monotonic()
                if one in errors or (round_number > 0 and left < longest):
                    continue
                start = time.monotonic()
                _run(one, command, runs, errors)
                longest = max(longest, time.monotonic() - start)
                _write(options, before, swept, runs, errors)


def _run(
    name: str,
    command: Sequence[str],
    runs: dict[str, list[Mapping[str, float]]],
    errors: dict[str, str],
) -> None:
    try:
        row = run_one(("timeout", str(_RUN_TIMEOUT_SECONDS), *command))
    except (RuntimeError, ValueError, IndexError) as error:
        errors[name] = str(error)
        print(f"{name:24} failed: {error}", flush=True)
        return
    runs[name].append(row)
    print(
        f"{name:24} {row[_RATE]:8.0f}/s {row['cpu_seconds_per_1000']:6.3f} CPU s/1000  "
        f"first {row['first_batch_seconds']:5.2f} s  foreign {row['foreign_cores']:.2f}",
        flush=True,
    )


def _swept(folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """Samples a second of DALI alone, by setting; empty where it failed."""
    cores = len(os.sched_getaffinity(0))
    loads = _LOADS if options.device != "cpu" else _LOADS[:1]
    threads = sorted({max(1, cores // 2), cores})
    settings = [f"{number}:{load}:crop" for number in threads for load in loads]
    settings += [f"{cores}:{loads[-1]}:whole", f"{max(1, cores // 2)}:{loads[-1]}:whole"]
    command = _dali(folder, options, dict.fromkeys(settings), seconds=_SWEEP_SECONDS)
    timeout = 2 * _RUN_TIMEOUT_SECONDS
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        print(f"the sweep of DALI took more than {timeout:.0f} s", flush=True)
        return {}
    if done.returncode:
        print(f"the sweep of DALI ended with exit code {done.returncode}", flush=True)
        return {}
    swept: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    for setting, rate in swept.items():
        print(f"DALI alone {setting:16} {rate:8.0f}/s", flush=True)
    return swept


def _contestants(
    folder: Path, options: argparse.Namespace, swept: Mapping[str, float]
) -> dict[str, tuple[str, ...]]:
    ours = {
        f"iopipe {engine}": _ours(folder, options, "--engine", engine) for engine in options.engines
    }
    if "cpu" in options.engines:
        workers = str(max(1, len(os.sched_getaffinity(0)) - 1))
        ours["iopipe cpu, workers"] = _ours(
            folder, options, "--engine", "cpu", "--workers", workers
        )
    if not swept:
        return ours
    best = max(swept, key=lambda setting: swept[setting])
    return {"DALI alone, best": _dali(folder, options, [best], seconds=options.seconds), **ours}


def _ours(folder: Path, options: argparse.Namespace, *rest: str) -> tuple[str, ...]:
    return _command("engines_iopipe.py", folder, options, options.seconds, rest)


def _dali(
    folder: Path, options: argparse.Namespace, settings: Any, *, seconds: float
) -> tuple[str, ...]:
    return _command("engines_dali.py", folder, options, seconds, ("--setting", *settings))


def _command(
    script: str, folder: Path, options: argparse.Namespace, seconds: float, rest: Sequence[str]
) -> tuple[str, ...]:
    common = ("--device", options.device, "--batch", str(options.batch), "--seconds", str(seconds))
    return (sys.executable, str(_PEERS / script), str(folder), *common, *rest)


def _write(
    options: argparse.Namespace,
    cache: Mapping[str, Any],
    swept: Mapping[str, float],
    runs: Mapping[str, Sequence[Mapping[str, float]]],
    errors: Mapping[str, str],
) -> None:
    best = _median(runs.get("DALI alone, best", ()))
    rows: list[dict[str, Any]] = [{"name": "DALI alone, swept", _RATE: dict(swept)}]
    for name, found in runs.items():
        row: dict[str, Any] = {"name": name, "runs": list(found)}
        if name in errors:
            row["error"] = errors[name]
        if (median := _median(found)) is not None:
            row[_RATE] = median
            row["times_dali"] = None if best is None else median / best
        rows.append(row)
    write_results(
        options.json,
        command=f"python -m iopipe.bench.decode_engines --images DIR --samples {options.samples} "
        f"--device {options.device} --batch {options.batch} --rounds {options.rounds} "
        f"--seconds {options.seconds:g} --json FILE",
        cache={"state": "warm", "before": dict(cache)},
        rows=rows,
    )


def _median(runs: Sequence[Mapping[str, float]]) -> float | None:
    return statistics.median(run[_RATE] for run in runs) if runs else None


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--engines", nargs="+", default=["hybrid", "dali", "nvimgcodec", "cpu"])
    parser.add_argument("--samples", type=int, default=6000)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--budget", type=float, default=220.0, help="seconds for all of it")
    parser.add_argument("--folder", help="where the shards are made; by default a temporary one")
    return parser.parse_args()


if __name__ == "__main__":
    main()
