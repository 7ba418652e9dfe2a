"""Which jobs a grid holds."""

from __future__ import annotations

from typing import Any

import pytest

from iopipe.bench.storage.jobs import Grid, in_binary
from iopipe.errors import PipelineError


def _grid(**changes: Any) -> Grid:
    values: dict[str, Any] = {
        "backends": ("posix", "direct", "uring", "mapped", "gds"), "block_bytes": (4096,),
        "queue_depths": (8,), "accesses": ("random",),
    }  # fmt: skip
    return Grid(**{**values, **changes})


def test_each_way_that_can_be_comes_once() -> None:
    found = [(job.backend, job.direct, job.cache) for job in _grid().jobs(in_memory=False)]
    assert sorted(found) == [
        ("direct", True, "bypassed"),
        *(("mapped", False, cache) for cache in ("cold", "warm")),
        *(("posix", False, cache) for cache in ("cold", "warm")),
        *(("uring", False, cache) for cache in ("cold", "warm")),
        ("uring", True, "bypassed"),
    ]


def test_the_gpu_is_reached_by_all_but_maps() -> None:
    jobs = _grid(destinations=("gpu", "gpu_async"), caches=("warm",)).jobs(in_memory=False)
    assert {(job.backend, job.destination) for job in jobs} == {
        *((name, "gpu") for name in ("posix", "direct", "uring", "gds")),
        ("posix", "gpu_async"),
        ("direct", "gpu_async"),
    }


def test_batches() -> None:
    jobs = _grid(block_bytes=(4096, 1 << 20)).jobs(in_memory=False)
    found = {(job.backend, job.cache, job.block_bytes): job.batch for job in jobs}
    assert found["posix", "warm", 4096] == 256  # in memory: a submission of up to 16 MiB
    assert found["posix", "cold", 4096] == 1  # every read has its own latency
    assert found["direct", "bypassed", 4096] == 1
    assert found["posix", "warm", 1 << 20] == 16
    assert found["uring", "bypassed", 4096] == 2  # four lanes
    assert {job.batch for job in _grid(batch=3).jobs(in_memory=False)} == {1, 3}
    in_memory = _grid(backends=("direct",)).jobs(in_memory=True)
    assert [job.batch for job in in_memory] == [256]


@pytest.mark.parametrize(
    "changes",
    [{"block_bytes": (0,)}, {"queue_depths": (0,)}, {"batch": 0}, {"block_bytes": (1 << 31,)}],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(PipelineError):
        _grid(**changes)


def test_sizes_are_written_short() -> None:
    assert [in_binary(n) for n in (1, 4096, 131072, 3 << 29)] == [
        "1 B",
        "4 KiB",
        "128 KiB",
        "1.5 GiB",
    ]
