"""The loaders under test: torch's own as the reference, ours with processes and with threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch.utils.data
from fakes.processes import alive_since, children

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
    before = children()
    yield
    assert not alive_since(before)
    threads = [thread.name for thread in threading.enumerate()]
    assert not [name for name in threads if name.startswith("iopipe-")], threads
