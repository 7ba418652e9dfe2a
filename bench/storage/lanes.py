"""One thread's reads: the requests, made beforehand, and how one submission is read.

Stands between `measure`, which holds the clock, and the store.  Invariant: when `read` returns, the
bytes of the submission are at the job's destination.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np

from iopipe.bench.storage.access import Blocks
from iopipe.bench.storage.jobs import Job
from iopipe.errors import MissingDependency, StorageError
from iopipe.protocols import ReadRequest, Store

Submission: TypeAlias = list[ReadRequest]


class Lane(Protocol):
    """Owned and used by one thread, but for `submissions`, which is made before it starts."""

    requests_each: int
    """In each submission; all have as many."""

    @property
    def submissions(self) -> Sequence[Any]: ...

    def read(self, submission: Any) -> None:
        """Block until its bytes are where they belong; `StorageError` where some are missing."""
        ...

    def content(self, submission: Any) -> list[tuple[str, int, memoryview]]:
        """(path, offset, bytes) as they lie at the destination, to be compared."""
        ...

    def close(self) -> None:
        """Wait for what is under way; idempotent."""
        ...


class HostLane:
    """Into host memory, page-aligned; pinned where the job says so."""

    def __init__(self, store: Store, job: Job, paths: Sequence[str], blocks: Blocks) -> None:
        self._store = store
        # Read one after the other they share a buffer, as a reader's would be in the cache.
        num_buffers = job.batch if job.fans_out else 1
        room = host_memory(num_buffers * job.block_bytes, pinned=job.destination != "host")
        buffers = [
            room[index * job.block_bytes : (index + 1) * job.block_bytes]
            for index in range(num_buffers)
        ]
        requests = [
            ReadRequest(paths[file], offset, buffers[index % num_buffers])
            for index, (file, offset) in enumerate(blocks.tolist())
        ]
        self.submissions: list[Submission] = [
            requests[first : first + job.batch] for first in range(0, len(requests), job.batch)
        ]
        self.requests_each = min(job.batch, len(requests))
        self._complete = [job.block_bytes] * self.requests_each
        self._reads_at_once = job.batch == 1 and not job.fans_out

    def read(self, submission: Submission) -> None:
        if self._reads_at_once:
            request = submission[0]
            counts = [self._store.read_into(request.path, request.offset, request.buffer)]
        else:
            counts = self._store.submit(submission).wait()
        if counts != self._complete:
            check_complete(submission, counts)

    def content(self, submission: Submission) -> list[tuple[str, int, memoryview]]:
        return [(request.path, request.offset, request.buffer) for request in submission]

    def close(self) -> None:
        """`read` leaves nothing under way."""


class MappedLane(HostLane):
    """Out of the store's views into host memory: pages that nobody touches are not read."""

    def read(self, submission: Submission) -> None:
        for path, offset, buffer in ((one.path, one.offset, one.buffer) for one in submission):
            view = self._store.view(path)
            if view is None or len(view) < offset + len(buffer):
                raise StorageError(f"{path!r} ends before {offset + len(buffer)}: it was cut")
            part = np.frombuffer(view, np.uint8, len(buffer), offset)
            np.copyto(np.frombuffer(buffer, np.uint8), part)


def check_complete(submission: Submission, counts: Sequence[int]) -> None:
    """Raise where a request brought less than it asked for: whole blocks lie within the file."""
    for request, count in zip(submission, counts, strict=True):
        if count != len(request.buffer):
            raise StorageError(
                f"{request.path!r} gave {count} of {len(request.buffer)} bytes at "
                f"{request.offset}: it changed while it was read"
            )


def host_memory(num_bytes: int, *, pinned: bool) -> memoryview:
    """Writable and aligned to the page; pinned memory is torch's."""
    if not pinned:
        return memoryview(mmap.mmap(-1, num_bytes))
    return memoryview(cuda_torch().empty(num_bytes, dtype=_uint8(), pin_memory=True).numpy())


def cuda_torch() -> Any:
    """torch with a GPU; `MissingDependency` says that there is none."""
    import torch

    if not torch.cuda.is_available():
        raise MissingDependency(
            "there is no CUDA device for this process: run on a machine with a GPU and its driver"
        )
    return torch


def _uint8() -> Any:
    import torch

    return torch.uint8


def make_lane(store: Store, job: Job, paths: Sequence[str], blocks: Blocks) -> Lane:
    if job.destination in ("gpu", "gpu_async"):
        from iopipe.bench.storage.gpu_lanes import make_gpu_lane

        return make_gpu_lane(store, job, paths, blocks)
    return (MappedLane if job.backend == "mapped" else HostLane)(store, job, paths, blocks)
