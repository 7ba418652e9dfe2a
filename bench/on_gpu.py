"""Everything that needs a GPU, in one go: the tests that are marked `gpu`, then the benchmarks.

Stands above the other benchmarks.  Invariant: each step is a process of its own, and one that
fails, or runs out of its time, costs no other; what it printed lies beside its results.

    python -m iopipe.bench.on_gpu --images DIR --out FOLDER
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from iopipe.bench.harness import write_results

_PYTEST = ("pytest", "-m", "gpu", "-p", "no:cacheprovider", "-p", "no:benchmark")
_TRAINING = ("iopipe.bench.training", "--images", "{images}", "--folder", "{memory}")
_SWEEP = ("--sweep", "iopipe.engine=cpu,hybrid,dali")


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A module that is run with `python -m`; of its arguments {images}, {memory} and {json} are
    filled in."""

    command: tuple[str, ...]
    seconds: float
    """After which it is ended; about twice what it takes on an H200 with 16 cores."""
    environment: Mapping[str, str] = field(default_factory=dict)
    under: tuple[str, ...] = ()
    """What runs it: a tool that looks for errors."""


def _benchmark(*command: str, seconds: float) -> Step:
    return Step(command=(*command, "--json", "{json}"), seconds=seconds)


def _tests(*places: str, seconds: float) -> Step:
    return Step(command=(*_PYTEST, *places), seconds=seconds)


STEPS: dict[str, Step] = {
    "tests of slots": _tests("tests/loaders", seconds=240),
    "tests of the meter": _tests("tests/meter", seconds=120),
    "tests of storage": _tests("tests/storage", seconds=60),
    "tests of benchmarks": _tests("tests/bench", seconds=120),
    "tests of kernels": _tests("tests/kernels", seconds=600),
    "memory errors": Step(
        command=("iopipe.bench.kernels.sanitize",),
        seconds=300,
        environment={"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},
        under=("compute-sanitizer", "--tool", "memcheck", "--error-exitcode", "9"),
    ),
    "storage": _benchmark("iopipe.bench.storage.gpu_bar", seconds=180),
    "device path": _benchmark("iopipe.bench.device_path", seconds=120),
    "injected": _benchmark("iopipe.bench.injected", seconds=120),
    "decode parity": _benchmark(
        "iopipe.bench.decode_parity", "--images", "{images}", "--device", "cuda", seconds=120
    ),
    "decode engines": _benchmark(
        "iopipe.bench.decode_engines", "--images", "{images}", seconds=300
    ),
    "kernels": _benchmark("iopipe.cli", "bench", "kernels", seconds=300),
    "kernels beside DALI": Step(command=("iopipe.bench.kernels.beside_dali",), seconds=60),
    "kernels beside products": Step(command=("iopipe.bench.kernels.beside_matmul",), seconds=60),
    "resnet50": _benchmark(*_TRAINING, *_SWEEP, "--sweep", "iopipe.workers=3", seconds=300),
    "resnet50, compiled": _benchmark(*_TRAINING, *_SWEEP, "--compile", seconds=400),
    "resnet18": _benchmark(*_TRAINING, *_SWEEP, "--model", "resnet18", "--cores", "0", seconds=300),
    "two ranks": _benchmark(
        "iopipe.bench.two_ranks", "--images", "{images}", "--folder", "{memory}", seconds=400
    ),
}
"""In the order in which they are run: what must hold comes before how fast it is."""


def run_steps(
    steps: Mapping[str, Step], out: Path, places: Mapping[str, str]
) -> list[dict[str, Any]]:
    """A row a step: how it ended, and after which time."""
    rows = []
    for name, step in steps.items():
        stem = name.replace(",", "").replace(" ", "_")
        filled = {**places, "json": str(out / f"{stem}.json")}
        start = time.perf_counter()
        with open(out / f"{stem}.log", "wb") as log:
            ended = _ended(step, filled, log)
        row = {"step": name, "ended": ended, "seconds": round(time.perf_counter() - start, 1)}
        print(f"{name}: {ended} after {row['seconds']} s", flush=True)
        rows.append(row)
    return rows


def _ended(step: Step, places: Mapping[str, str], log: Any) -> str:
    arguments = [part.format(**places) for part in step.command]
    command = [*step.under, sys.executable, "-m", *arguments]
    environment = {**os.environ, "IOPIPE_IMAGES": places["images"], **step.environment}
    try:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env=environment, start_new_session=True
        )
    except FileNotFoundError as error:
        return f"not run: {error.filename} is not there"
    try:
        code = process.wait(step.seconds)
    except subprocess.TimeoutExpired:
        return f"ran out of {step.seconds:g} s"
    finally:
        if process.poll() is None:  # with its children: ranks, workers, tests
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return "well" if code == 0 else f"exit code {code}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Exit code 1 where a step did not end well."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, required=True, help="a folder of JPEGs")
    parser.add_argument("--out", type=Path, required=True, help="where results and logs go")
    parser.add_argument("--memory", default="/dev/shm", help="a folder in memory (/dev/shm)")
    parser.add_argument("--only", choices=STEPS, action="append", help="may be given again")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    places = {"images": str(options.images), "memory": options.memory}
    rows = run_steps({name: STEPS[name] for name in options.only or STEPS}, options.out, places)
    write_results(
        options.out / "steps.json",
        command="python -m iopipe.bench.on_gpu --images DIR --out FOLDER",
        cache={"state": "as each step's own results say"},
        rows=rows,
    )
    sys.exit(int(any(row["ended"] != "well" for row in rows)))


if __name__ == "__main__":
    main()
