"""The way to one of several GPUs, from threads whose current device is another one."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch

from iopipe.loaders import cuda


def test_pages_are_locked_on_the_links_own_device(monkeypatch: pytest.MonkeyPatch) -> None:
    current, calls = [0], []

    @contextlib.contextmanager
    def device(wanted: torch.device) -> Iterator[None]:
        current.append(wanted.index)
        yield
        current.pop()

    def called(name: str) -> int:
        calls.append((name, current[-1]))
        return 0

    runtime = SimpleNamespace(
        cudaHostRegister=lambda *_: called("register"),
        cudaHostUnregister=lambda *_: called("unregister"),
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: None)
    monkeypatch.setattr(torch.cuda, "cudart", lambda: runtime)
    monkeypatch.setattr(torch.cuda, "device", device)
    link = cuda.CudaLink("cuda:1")
    link.pin(4096, 4096)
    link.allocate_host(1)
    link.unpin(4096)
    gc.collect()  # the slot that was not kept
    assert calls.count(("register", 1)) == calls.count(("unregister", 1)) == 2
    assert len(calls) == 4
