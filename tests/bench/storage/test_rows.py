"""Percentiles, Little's law, and the keys of a row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from iopipe.bench.storage.jobs import Job
from iopipe.bench.storage.rows import Row, latencies_us, littles_law


def job(**changes: Any) -> Job:
    values: dict[str, Any] = {
        "backend": "posix", "access": "random", "block_bytes": 4096, "queue_depth": 8,
        "direct": False, "destination": "host", "cache": "warm",
    }  # fmt: skip
    return Job(**{**values, **changes})


def row(**changes: Any) -> Row:
    """8 reads of 4096 bytes in flight, 100 us each: 327.68 MB/s."""
    values: dict[str, Any] = {
        "target": "t", "job": job(), "active_path": "p", "transfer": "CPUONLY", "cache": "warm",
        "repeat": 0, "num_bytes": 327_680_000, "seconds": 1.0, "cpu_seconds": 0.5,
        "latency_us": latencies_us([100_000]), "resident_before": 1.0, "resident_after": 1.0,
    }  # fmt: skip
    return Row(**{**values, **changes})


def test_percentiles_are_numpys() -> None:
    values = np.random.default_rng(0).integers(1, 10**9, 12_345)
    found = latencies_us(values)
    for name, share in (("p50_us", 50), ("p95_us", 95), ("p99_us", 99), ("p99_9_us", 99.9)):
        assert found[name] == pytest.approx(np.percentile(values, share) / 1e3)
    assert found["max_us"] == values.max() / 1e3
    assert found["mean_us"] == pytest.approx(values.mean() / 1e3)


def test_littles_law_holds_where_the_queue_is_full() -> None:
    assert row().littles_law == pytest.approx(1)
    assert row().obeys_littles_law is True


@pytest.mark.parametrize(
    ("num_bytes", "obeys"), [(300_000_000, True), (250_000_000, False), (400_000_000, False)]
)
def test_rows_that_violate_it_are_flagged(num_bytes: int, obeys: bool) -> None:
    found = row(num_bytes=num_bytes)
    assert found.obeys_littles_law is obeys
    assert found.as_json()["obeys_littles_law"] is obeys


def test_what_compared_in_between_is_not_judged() -> None:
    assert row(verified_bytes=4096).littles_law is None
    assert row(verified_bytes=4096).obeys_littles_law is None


def test_the_law_itself() -> None:
    # 10 requests of 1 MB, 10 ms each: 1,000 a second, 1 GB/s.
    assert littles_law(gbps=1.0, in_flight_bytes=10_000_000, mean_us=10_000) == pytest.approx(1)


def test_a_row_has_the_keys_of_the_schema_and_its_numbers_agree() -> None:
    found = row().as_json()
    assert {
        "backend", "active_path", "access", "block_bytes", "queue_depth", "direct", "destination",
        "cache", "gbps", "iops", "p50_us", "p95_us", "p99_us", "p99_9_us", "max_us",
        "cpu_seconds_per_gb",
    } <= set(found)  # fmt: skip
    assert found["gbps"] == pytest.approx(0.32768)
    assert found["iops"] == pytest.approx(80_000)
    assert found["cpu_seconds_per_gb"] == pytest.approx(0.5 / 0.32768)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "CPUONLY"),
        ({"destination": "pinned"}, "CPUONLY"),
        ({"destination": "gpu"}, "CPU_GPU"),
        ({"destination": "gpu_async"}, "CPU_ASYNC_GPU"),
        ({"backend": "gds", "destination": "gpu"}, "GPUD"),
    ],
)
def test_transfers_have_gdsios_names(changes: dict[str, Any], name: str) -> None:
    assert job(**changes).transfer == name


@pytest.mark.parametrize(
    ("changes", "lanes"),
    [
        ({"batch": 64}, 8),
        ({"backend": "uring", "batch": 2}, 4),
        ({"destination": "gpu_async"}, 4),
    ],
)
def test_lanes_keep_the_queue_depth(changes: dict[str, Any], lanes: int) -> None:
    assert job(**changes).num_lanes == lanes
