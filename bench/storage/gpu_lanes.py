"""Reads that end in GPU memory: by kvikio, or by host memory and a copy.

Stands beside `lanes` for destinations that need CUDA.  Invariant: a latency ends when the bytes are
in GPU memory, which an event of the copy's stream proves.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

from iopipe.bench.storage.access import Blocks
from iopipe.bench.storage.jobs import Job
from iopipe.bench.storage.lanes import Lane, Submission, check_complete, cuda_torch
from iopipe.errors import StorageError
from iopipe.protocols import ReadRequest, Store
from iopipe.storage.device import DeviceRead
from iopipe.storage.gds import GdsStore


def make_gpu_lane(store: Store, job: Job, paths: Sequence[str], blocks: Blocks) -> Lane:
    if isinstance(store, GdsStore):
        return GdsLane(store, job, paths, blocks, cuda_torch())
    num_places = 2 if job.destination == "gpu_async" else 1
    return CopyLane(store, job, paths, blocks, cuda_torch(), num_places=num_places)


class GdsLane:
    """Storage to GPU: kvikio's threads read into a tensor (gdsio's GPUD, where it is direct)."""

    def __init__(
        self, store: GdsStore, job: Job, paths: Sequence[str], blocks: Blocks, torch: Any
    ) -> None:
        self._store = store
        room = torch.empty(job.batch * job.block_bytes, dtype=torch.uint8, device="cuda")
        self._buffers = room.split(job.block_bytes)
        requests = [
            DeviceRead(paths[file], offset, self._buffers[index % job.batch])
            for index, (file, offset) in enumerate(blocks.tolist())
        ]
        self.submissions = [
            requests[first : first + job.batch] for first in range(0, len(requests), job.batch)
        ]
        self.requests_each = min(job.batch, len(requests))
        self._block_bytes = job.block_bytes

    def read(self, submission: list[DeviceRead]) -> None:
        counts = self._store.submit_to_device(submission).wait()
        for request, count in zip(submission, counts, strict=True):
            if count != self._block_bytes:
                raise StorageError(
                    f"{request.path!r} gave {count} of {self._block_bytes} bytes at "
                    f"{request.offset}: it changed while it was read"
                )

    def content(self, submission: list[DeviceRead]) -> list[tuple[str, int, memoryview]]:
        return [
            (request.path, request.offset, memoryview(buffer.cpu().numpy()))
            for request, buffer in zip(submission, self._buffers, strict=False)
        ]

    def close(self) -> None:
        """`read` leaves nothing under way."""


class CopyLane:
    """Storage to pinned host memory to GPU.

    With one place a read waits for its copy (gdsio's CPU_GPU); with two, the copy of a block
    runs beside the read of the next one (CPU_ASYNC_GPU), and `read` returns when the block of
    the call before is in GPU memory.
    """

    def __init__(
        self,
        store: Store,
        job: Job,
        paths: Sequence[str],
        blocks: Blocks,
        torch: Any,
        *,
        num_places: int,
    ) -> None:
        num_buffers = self.requests_each = min(job.batch, len(blocks))
        shape = (num_places, num_buffers, job.block_bytes)
        self._host = torch.empty(shape, dtype=torch.uint8, pin_memory=True)
        self._device = torch.empty(shape, dtype=torch.uint8, device="cuda")
        self._torch, self._store = torch, store
        self._stream = torch.cuda.Stream()
        self._under_way: deque[Any] = deque()
        self._num_places, self._next = num_places, 0
        views = [
            [memoryview(self._host[place, index].numpy()) for index in range(num_buffers)]
            for place in range(num_places)
        ]
        self.submissions: list[tuple[int, Submission]] = []
        wanted = blocks.tolist()
        for number, first in enumerate(range(0, len(wanted), num_buffers)):
            place = number % num_places
            part = [
                ReadRequest(paths[file], offset, views[place][index])
                for index, (file, offset) in enumerate(wanted[first : first + num_buffers])
            ]
            self.submissions.append((place, part))

    def read(self, submission: tuple[int, Submission]) -> None:
        place, requests = submission
        counts = self._store.submit(requests).wait()
        check_complete(requests, counts)
        with self._torch.cuda.stream(self._stream):
            self._device[place].copy_(self._host[place], non_blocking=True)
            event = self._torch.cuda.Event()
            event.record(self._stream)
        self._under_way.append(event)
        while len(self._under_way) >= self._num_places:
            self._under_way.popleft().synchronize()

    def content(self, submission: tuple[int, Submission]) -> list[tuple[str, int, memoryview]]:
        self.close()
        place, requests = submission
        arrived = self._device[place].cpu().numpy()
        return [
            (request.path, request.offset, memoryview(arrived[index]))
            for index, request in enumerate(requests)
        ]

    def close(self) -> None:
        while self._under_way:
            self._under_way.popleft().synchronize()
