"""The rate of copies, out of a trace as torch.profiler writes it."""

from __future__ import annotations

from typing import Any

import pytest

from iopipe.bench.device_path import rates_in_trace


def _copy(name: str, *, num_bytes: int, microseconds: float, cat: str = "gpu_memcpy") -> Any:
    args = {"device": 0, "stream": 7, "bytes": num_bytes}
    return {"ph": "X", "cat": cat, "name": name, "dur": microseconds, "args": args}


def test_copies_to_the_device_are_found_in_a_trace() -> None:
    events = [
        {"ph": "M", "name": "process_name"},
        _copy("Memcpy HtoD (Pinned -> Device)", num_bytes=1 << 20, microseconds=20.0),
        _copy("Memcpy HtoD (Pageable -> Device)", num_bytes=8 << 20, microseconds=1000.0),
        _copy("Memcpy DtoH (Device -> Pinned)", num_bytes=1 << 20, microseconds=1.0),
        _copy("Memcpy HtoD (Pinned -> Device)", num_bytes=64, microseconds=1.0),
        _copy("cudaMemcpyAsync HtoD", num_bytes=1 << 20, microseconds=5.0, cat="cuda_runtime"),
    ]
    assert rates_in_trace({"traceEvents": events}) == pytest.approx([52.4288, 8.388608])
