"""Child processes of a test."""

from __future__ import annotations

import gc

import psutil


def children() -> set[int]:
    return {child.pid for child in psutil.Process().children()}


def alive_since(before: set[int], *, seconds: float = 10) -> list[psutil.Process]:
    """Workers that were started after `children` gave `before` and have not ended by now."""
    gc.collect()
    left = [child for child in psutil.Process().children() if child.pid not in before]
    _, alive = psutil.wait_procs([one for one in left if not _serves(one)], timeout=seconds)
    return list(alive)


def _serves(process: psutil.Process) -> bool:
    """multiprocessing's own servers stay for the next loader."""
    try:
        line = " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return False
    return "forkserver" in line or "resource_tracker" in line
