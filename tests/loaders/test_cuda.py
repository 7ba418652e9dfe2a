"""The way to one of several GPUs, from threads whose current device is another one."""

from __future__ import annotations

import contextlib
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
    monkeypatch.setattr(torch, "empty", lambda *_, **options: called("empty"))
    link = cuda.CudaLink("cuda:1")
    link.pin(4096, 4096)
    link.allocate_host(1)
    link.unpin(4096)
    assert calls == [("register", 1), ("empty", 1), ("unregister", 1)]
