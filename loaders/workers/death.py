"""Why a worker process is gone, as far as one can tell from outside.

Asked when torch's machinery reports a dead worker.  Invariant: only what was read off the
process and the kernel's counters is said.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def oom_kills(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """How often the kernel has killed for memory in this control group; None where it does not
    say.  Source: the kernel's cgroup-v2 documentation, memory.events; cgroup v1 has the
    counter in memory.oom_control."""
    for name in ("memory.events", "memory/memory.oom_control"):
        try:
            lines = (root / name).read_text().splitlines()
        except OSError:
            continue
        for line in lines:
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return None


def causes_of_death(workers: Sequence[Any], num_oom_kills: int | None) -> str:
    """What happened to those of `workers` that are dead; `num_oom_kills` is what `oom_kills`
    said when they started."""
    said = [
        f"pid {worker.pid} {_end(worker.exitcode)}"
        for worker in workers
        if worker.exitcode is not None
    ]
    codes = {worker.exitcode for worker in workers}
    if -signal.SIGKILL in codes:
        said.append(_killed(num_oom_kills))
    if -signal.SIGBUS in codes:
        said.append(_no_room())
    return "; ".join(said)


def _end(exitcode: int) -> str:
    if exitcode < 0:
        return f"was ended by signal {-exitcode} ({signal.Signals(-exitcode).name})"
    return f"ended with exit code {exitcode}"


def _killed(before: int | None) -> str:
    now = oom_kills()
    if before is not None and now is not None and now > before:
        return (
            f"the kernel killed for memory {now - before} times since the workers started: use "
            "fewer workers, smaller batches or a smaller prefetch_factor"
        )
    counted = "its counter of kills for memory did not rise" if now is not None else ""
    return f"somebody sent SIGKILL{f' ({counted})' if counted else ''}"


def _no_room() -> str:
    found = os.statvfs("/dev/shm")
    free, whole = (found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize)
    return (
        f"SIGBUS means memory that could not be backed: /dev/shm has {free >> 20} of "
        f"{whole >> 20} MiB free; enlarge it (docker run --shm-size) or the memory limit"
    )
