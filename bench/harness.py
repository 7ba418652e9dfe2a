"""The one way to time: contestants in turns, each in a process of its own.

Stands under every benchmark.  Invariant: a row says what the machine did besides (the
foreign load), whether the data was in the page cache, and how far the runs were apart.
"""

from __future__ import annotations

import ctypes
import datetime
import json
import mmap
import os
import platform
import shutil
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from iopipe.bench.measure import family

_PACKAGES = (
    "torch",
    "triton",
    "numpy",
    "pyarrow",
    "pillow",
    "simplejpeg",
    "opencv-python-headless",
    "webdataset",
    "torchvision",
    "nvidia-dali-cuda130",
    "nvidia-nvimgcodec-cu13",
)
_SAMPLE_SECONDS = 0.2
_QUIET_CORES = 0.1
_MAX_TRIES = 3


@dataclass(frozen=True, slots=True)
class Contestant:
    """A command that prints one JSON object, its measurements, as its last line."""

    name: str
    command: tuple[str, ...]


@dataclass(slots=True)
class Runs:
    """What one contestant measured, run by run."""

    rows: list[dict[str, Any]] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """Median, least and greatest of every number; what is no number as the first run said."""
        return {name: self._summed_up(name) for name in self.rows[0]}

    def _summed_up(self, name: str) -> Any:
        values = [row[name] for row in self.rows]
        if not isinstance(values[0], int | float):
            return values[0]
        return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def interleave(
    contestants: Sequence[Contestant],
    *,
    num_rounds: int,
    on_run: Callable[[str, Mapping[str, Any]], None],
    max_tries: int = _MAX_TRIES,
) -> dict[str, Runs]:
    """Run all contestants in turns, `num_rounds` times: A B C A B C ...

    A run that others disturbed is made again, `max_tries` times at most, and the least disturbed
    one is kept: runs are chosen by the foreign load, never by their speed.
    """
    results = {contestant.name: Runs() for contestant in contestants}
    for _ in range(num_rounds):
        for contestant in contestants:
            row = _quiet_run(contestant, on_run, max_tries)
            results[contestant.name].rows.append(row)
    return results


def _quiet_run(
    contestant: Contestant, on_run: Callable[[str, Mapping[str, Any]], None], max_tries: int
) -> dict[str, Any]:
    tries: list[dict[str, Any]] = []
    while len(tries) < max_tries:
        row = run_one(contestant.command)
        tries.append({**row, "tries": len(tries) + 1})
        on_run(contestant.name, row)
        if row["foreign_cores"] <= _QUIET_CORES:
            break
    return min(tries, key=lambda row: row["foreign_cores"])


def run_one(command: Sequence[str]) -> dict[str, Any]:
    """One run: what the command printed, its peak memory, and the machine's foreign load."""
    foreign = ForeignLoad()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        watch = _PeakMemory(process.pid)
        with watch:
            output, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with exit code {process.returncode}")
    row: dict[str, Any] = json.loads(output.splitlines()[-1])
    return {**row, "peak_pss_bytes": watch.peak_bytes, "foreign_cores": foreign.cores()}


class _PeakMemory:
    """The greatest proportional set size of a process and its descendants, sampled."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.peak_bytes = 0

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(_SAMPLE_SECONDS):
            num_bytes = sum(_pss_bytes(pid) for pid in family(self._pid))
            self.peak_bytes = max(self.peak_bytes, num_bytes)


def _pss_bytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:  # it ended meanwhile
        return 0
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))


class ForeignLoad:
    """Cores kept busy by others since the start, judged by /proc/stat less our own."""

    def __init__(self) -> None:
        self._start = self._read()

    def cores(self) -> float:
        busy, own, wall = (b - a for a, b in zip(self._start, self._read(), strict=True))
        return max(0.0, (busy - own) / wall)

    @staticmethod
    def _read() -> tuple[float, float, float]:
        fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
        user, nice, system, _, _, irq, softirq, steal = (int(value) for value in fields)
        busy = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
        times = os.times()
        own = times.user + times.system + times.children_user + times.children_system
        return busy, own, time.monotonic()


# ---- what the machine is -------------------------------------------------------------


def environment() -> dict[str, str]:
    """Hardware and versions, no names of hosts, users or folders."""
    values = {
        "date": datetime.date.today().isoformat(),
        "cpu": _cpu_model(),
        "cores": str(len(os.sched_getaffinity(0))),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }
    for name in _PACKAGES:
        try:
            values[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {**values, **_gpu()}


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _gpu() -> dict[str, str]:
    """From the driver's own tool, so that no CUDA context is made to ask."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return {}
    command = (tool, "--query-gpu=name,driver_version", "--format=csv,noheader")
    answer = subprocess.run(command, capture_output=True, text=True)
    if answer.returncode:  # the tool without a GPU
        return {}
    gpus = [line.rpartition(", ") for line in answer.stdout.splitlines()]
    return {"gpu": ", ".join(name for name, _, _ in gpus), "driver": gpus[0][2]}


# ---- the page cache ------------------------------------------------------------------


def residency(paths: Iterable[Path]) -> dict[str, float]:
    """How much of these files the page cache holds, as mincore(2) says."""
    page = mmap.PAGESIZE
    num_pages = num_resident = 0
    for path in paths:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
            count = -(-len(mapped) // page)
            num_pages += count
            num_resident += _resident_pages(mapped, count)
    return {"bytes": num_pages * page, "resident_fraction": num_resident / max(1, num_pages)}


def _resident_pages(mapped: mmap.mmap, count: int) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    vector = (ctypes.c_ubyte * count)()
    address = ctypes.c_void_p.from_buffer_copy(_address(mapped))
    if libc.mincore(address, ctypes.c_size_t(len(mapped)), vector):
        raise OSError(ctypes.get_errno(), "mincore failed")
    return sum(value & 1 for value in vector)


def _address(mapped: mmap.mmap) -> bytes:
    """A read-only mapping hands its address to numpy alone."""
    import numpy as np

    pointer = np.frombuffer(mapped, np.uint8).ctypes.data
    return bytes(ctypes.c_void_p(pointer))


# ---- results -------------------------------------------------------------------------


def rows_of(path: Path) -> dict[str, dict[str, Any]]:
    """By pipeline: those of a results file, none where there is no such file yet."""
    if not path.exists():
        return {}
    return {row["pipeline"]: row for row in json.loads(path.read_text())["rows"]}


def write_results(
    path: Path,
    *,
    command: str,
    cache: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    **more: Any,
) -> None:
    """Write a results file: what was run, where, with which cache, and what came out; `more`
    is what else a reader may want to know."""
    content = {
        "schema": 1,
        "command": command,
        "environment": environment(),
        "cache": dict(cache),
        **more,
        "rows": [dict(row) for row in rows],
    }
    path.parent.mkdir(parents=True, exist_ok=True)  # what took hours is not lost for want of it
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(temporary, path)
