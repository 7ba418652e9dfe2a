"""Starts the ranks of one training, as a launcher does, and listens to the first of them.

Stands under `iopipe.bench.two_ranks`.  Invariant: when this returns, no process of the ranks and
of their workers is left, and those that had to be ended by force are known by number.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from iopipe.bench.rank_work import Orders

_MARK = "IOPIPE_BENCH_RANKS"
_LIMIT_SECONDS = 300.0
_END_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a training ended."""

    codes: tuple[int, ...]
    """Exit codes by rank; below 0: by that signal."""
    num_ended_by_us: int
    """Ranks that went on without the one that had died, until the launcher ended them."""
    num_left_behind: int
    """Processes, workers too, that outlived their ranks; they were ended here."""


def launch(
    ranks: Sequence[Orders],
    *,
    on_row: Callable[[dict[str, Any]], None],
    grace_seconds: float = 5.0,
) -> Ended:
    """Run all ranks to their end.  One that fails gives the others `grace_seconds` to notice."""
    token = uuid.uuid4().hex
    processes = [_start(orders, token) for orders in ranks]
    reader = threading.Thread(target=_read, args=(processes[0], on_row))
    reader.start()
    try:
        num_ended = _wait(processes, grace_seconds)
    finally:
        for process in processes:
            process.kill()  # of no effect on those that have ended
            process.wait()
        num_left = _end_all(token)
        reader.join()
    return Ended(
        codes=tuple(process.returncode for process in processes),
        num_ended_by_us=num_ended,
        num_left_behind=num_left,
    )


def _start(orders: Orders, token: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "iopipe.bench.rank_work", json.dumps(asdict(orders))]
    output = subprocess.PIPE if orders.rank == 0 else None
    environment = {**os.environ, _MARK: token, "LOCAL_RANK": str(orders.rank)}
    environment["LOCAL_WORLD_SIZE"] = str(orders.world)
    return subprocess.Popen(command, stdout=output, text=True, env=environment)


def _read(process: subprocess.Popen[str], on_row: Callable[[dict[str, Any]], None]) -> None:
    assert process.stdout is not None
    with process.stdout as lines:
        for line in lines:
            if line.startswith("ROW "):
                on_row(json.loads(line[4:]))
            else:
                print(line, end="", flush=True)


def _wait(processes: Sequence[subprocess.Popen[str]], grace_seconds: float) -> int:
    """Until all have ended, or one has failed and the others have had their time; how many of
    them are still there then."""
    end = time.monotonic() + _LIMIT_SECONDS
    failed = False
    while (running := [one for one in processes if one.poll() is None]) and time.monotonic() < end:
        if not failed and any(process.returncode for process in processes):
            failed = True
            end = min(end, time.monotonic() + grace_seconds)
        time.sleep(0.02)
    return len(running)


def _end_all(token: str) -> int:
    """Workers end by themselves when their rank is gone: soon, but not at once."""
    end = time.monotonic() + _END_SECONDS
    while (left := _marked(token)) and time.monotonic() < end:
        time.sleep(0.02)
    for pid in left:
        with contextlib.suppress(ProcessLookupError):  # it has ended by itself just now
            os.kill(pid, signal.SIGKILL)
    return len(left)


def _marked(token: str) -> list[int]:
    """Processes whose environment has our mark."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            content = path.read_bytes()
        except OSError:  # it has ended, or is another user's
            continue
        if f"{_MARK}={token}".encode() in content:
            found.append(int(path.parent.name))
    return found
