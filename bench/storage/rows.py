"""What a run of a job measured, and the arithmetic on it.

Stands between `measure` and everything that shows numbers.  Invariant: every number of a row comes
from the run's own latencies, bytes and clocks; none is filled in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from iopipe.bench.storage.jobs import Job

LITTLE_TOLERANCE = 0.1

_QUANTILES = (("p50_us", 50.0), ("p95_us", 95.0), ("p99_us", 99.0), ("p99_9_us", 99.9))


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One run of one job.  GB are 10^9 bytes; latencies are microseconds of one request."""

    target: str
    job: Job
    active_path: str
    """What the store says that it did."""
    transfer: str
    """gdsio's name of the way of the bytes."""
    cache: str
    """'warm', 'cold', 'bypassed' (O_DIRECT) or 'remote': as it was found, not as it was asked."""
    repeat: int
    num_bytes: int
    seconds: float
    latency_us: dict[str, float]
    """p50_us, p95_us, p99_us, p99_9_us, max_us, mean_us."""
    cpu_seconds: float
    """User and system time of the whole process."""
    resident_before: float | None
    resident_after: float | None
    """Fractions of the files in the page cache; None where they are not local."""
    verified_bytes: int = 0

    @property
    def gbps(self) -> float:
        return self.num_bytes / self.seconds / 1e9

    @property
    def iops(self) -> float:
        return self.num_bytes / self.job.block_bytes / self.seconds

    @property
    def cpu_seconds_per_gb(self) -> float:
        return self.cpu_seconds / (self.num_bytes / 1e9)

    @property
    def littles_law(self) -> float | None:
        """Measured throughput over bytes in flight / mean latency: 1 where the queue was full all
        the time; less where the benchmark's own work stood between the reads.  None where content
        was compared in between."""
        if self.verified_bytes:
            return None
        return littles_law(
            gbps=self.gbps,
            in_flight_bytes=self.job.queue_depth * self.job.block_bytes,
            mean_us=self.latency_us["mean_us"],
        )

    @property
    def obeys_littles_law(self) -> bool | None:
        found = self.littles_law
        return None if found is None else abs(found - 1) <= LITTLE_TOLERANCE

    def as_json(self) -> dict[str, Any]:
        return {
            **self.job.as_json(),
            "num_lanes": self.job.num_lanes,
            "target": self.target,
            "active_path": self.active_path,
            "transfer": self.transfer,
            "cache": self.cache,
            "repeat": self.repeat,
            "gbps": self.gbps,
            "gibps": self.num_bytes / self.seconds / (1 << 30),
            "iops": self.iops,
            **self.latency_us,
            "cpu_seconds_per_gb": self.cpu_seconds_per_gb,
            "littles_law_ratio": self.littles_law,
            "obeys_littles_law": self.obeys_littles_law,
            "num_bytes": self.num_bytes,
            "seconds": self.seconds,
            "resident_before": self.resident_before,
            "resident_after": self.resident_after,
            "verified_bytes": self.verified_bytes,
        }


def littles_law(*, gbps: float, in_flight_bytes: int, mean_us: float) -> float:
    """Throughput over what the bytes in flight and their latency make it.

    Source: J. D. C. Little, "A Proof for the Queuing Formula L = lambda W" (1961).
    """
    return gbps * 1e9 / (in_flight_bytes / (mean_us * 1e-6))


def latencies_us(nanoseconds: Sequence[int] | npt.NDArray[np.int64]) -> dict[str, float]:
    """Percentiles by linear interpolation between neighbours, greatest and mean."""
    values = np.asarray(nanoseconds, np.int64) / 1e3
    found = np.percentile(values, [share for _, share in _QUANTILES])
    named = {name: float(value) for (name, _), value in zip(_QUANTILES, found, strict=True)}
    return {**named, "max_us": float(values.max()), "mean_us": float(values.mean())}
