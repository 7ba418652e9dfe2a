"""The loaders under test: torch's own as the reference, ours with processes and with threads."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import psutil
import pytest
import torch.utils.data

import iopipe

LOADERS: dict[str, Callable[..., Any]] = {
    "torch": torch.utils.data.DataLoader,
    "process": iopipe.DataLoader,
    "thread": partial(iopipe.DataLoader, worker_mode="thread"),
}


@pytest.fixture(params=list(LOADERS))
def make(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """A loader class: whatever a test says must hold for torch's as well."""
    return LOADERS[request.param]


@pytest.fixture(params=["process", "thread"])
def ours(request: pytest.FixtureRequest) -> Callable[..., Any]:
    return LOADERS[request.param]


@pytest.fixture(params=["torch", "process"])
def make_processes(request: pytest.FixtureRequest) -> Callable[..., Any]:
    return LOADERS[request.param]


@pytest.fixture(autouse=True)
def _nobody_is_left_behind() -> Iterator[None]:
    """No worker outlives its loader."""
    before = {child.pid for child in psutil.Process().children()}
    yield
    gc.collect()
    left = [child for child in psutil.Process().children() if child.pid not in before]
    _, alive = psutil.wait_procs([one for one in left if not _serves(one)], timeout=10)
    assert not alive
    threads = [thread.name for thread in threading.enumerate()]
    assert not [name for name in threads if name.startswith("iopipe-")], threads


def _serves(process: psutil.Process) -> bool:
    """multiprocessing's own servers stay for the next loader."""
    try:
        line = " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return False
    return "forkserver" in line or "resource_tracker" in line
