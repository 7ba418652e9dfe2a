"""From a job to the store that it measures, set up for the job's queue depth.

Stands between `sweep` and `iopipe.storage`.  Invariant: reads under way at a time are the job's
queue depth; no thread of a store stands between a lane and its reads that the depth does not need.
"""

from __future__ import annotations

from typing import Any

from iopipe.bench.storage.jobs import LOCAL_BACKENDS, REMOTE_BACKENDS, BackendName, Job
from iopipe.bench.storage.targets import Target, remote_backend
from iopipe.errors import StorageError
from iopipe.protocols import Store
from iopipe.storage import open_store


def backends_for(target: Target) -> tuple[BackendName, ...]:
    """Those that can read this kind of place."""
    if target.is_local:
        return LOCAL_BACKENDS
    return (remote_backend(target.name),)


def open_for(job: Job, target: Target) -> Store:
    """`StorageError` or `MissingDependency` where this machine has no such path."""
    url = target.files[0][0]
    if (job.backend in REMOTE_BACKENDS) == target.is_local:
        kind = "local files" if job.backend not in REMOTE_BACKENDS else "URLs"
        raise StorageError(f"{job.backend} is for {kind}")
    if job.backend == "auto":
        return open_store(url)
    return open_store(url, prefer=job.backend, **_options(job))


def _options(job: Job) -> dict[str, Any]:
    depth = job.queue_depth
    match job.backend:
        case "posix":
            return {"num_threads": depth}
        case "direct":
            return {"num_threads": 0}  # each lane reads its own requests
        case "uring":
            return {"queue_depth": _power_of_two(depth), "direct": job.direct}
        case "gds":
            return {"num_threads": max(1, depth), "task_bytes": max(4096, job.block_bytes)}
        case "objects":
            parts = -(-job.block_bytes // 4096) * 4096
            return {"concurrency": depth, "part_bytes": parts}
    return {}


def _power_of_two(number: int) -> int:
    return 1 << (number - 1).bit_length()
