"""The page cache before a run: filled or dropped, and looked at, never presumed.

Stands between `sweep` and the kernel.  Invariant: 'cold' and 'warm' are said only of what
mincore(2) showed to be so.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from pathlib import Path

from iopipe.bench.harness import residency
from iopipe.bench.storage.jobs import CacheState, in_binary

MOST_COLD, LEAST_WARM = 0.01, 0.99
"""Resident fractions; read-ahead of others and the tail page leave a little."""

_READ_BYTES = 8 << 20


def resident_fraction(paths: Sequence[Path]) -> float:
    return residency(paths)["resident_fraction"]


def prepare(paths: Sequence[Path], state: CacheState) -> str | None:
    """Bring the files into `state`; why that could not be, or None.

    Pages that are written but not yet on the device cannot be dropped, so they are brought
    there first.  Pages that anybody has mapped stay, whatever is asked.
    """
    if state == "cold":
        for path in paths:
            drop(path)
        found = resident_fraction(paths)
        if found > MOST_COLD:
            return f"{100 * found:.0f} % of the pages stay in memory when asked to go"
    elif state == "warm":
        total, free = sum(path.stat().st_size for path in paths), _available_bytes()
        found = resident_fraction(paths)
        if found < LEAST_WARM and total * (1 - found) > free:
            return f"{in_binary(total)} of files do not fit in {in_binary(free)} of free memory"
        if found < LEAST_WARM:
            for path in paths:
                fill(path)
            found = resident_fraction(paths)
        if found < LEAST_WARM:
            return f"memory holds {100 * found:.0f} % of the pages only"
    return None


def drop(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def fill(path: Path) -> None:
    """Read it once."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with mmap.mmap(-1, _READ_BYTES) as room:
            offset = 0
            while num_bytes := os.preadv(descriptor, [room], offset):
                offset += num_bytes
    finally:
        os.close(descriptor)


def _available_bytes() -> int:
    """What programs can get without swapping, see proc_meminfo(5)."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    found = {name: rest for name, _, rest in (line.partition(":") for line in lines)}
    return 1024 * int(found["MemAvailable"].split()[0])
