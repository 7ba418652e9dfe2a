"""A store whose device memory is the host's, as `FakeLink` has it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from iopipe.protocols import ReadRequest, Reads
from iopipe.storage import PosixStore
from iopipe.storage.device import DeviceRead


class FakeDeviceStore(PosixStore):
    """Counts its reads into the device's memory, and reads of the host's, which must be none."""

    def __init__(self) -> None:
        super().__init__()
        self.device_reads: list[tuple[int, int]] = []
        """(offset, bytes) of each."""

    def submit_to_device(self, requests: Sequence[DeviceRead]) -> Reads:
        buffers: list[Any] = [request.buffer for request in requests]
        self.device_reads += [(r.offset, len(b)) for r, b in zip(requests, buffers, strict=True)]
        return super().submit(
            [
                ReadRequest(request.path, request.offset, buffer.numpy().data)
                for request, buffer in zip(requests, buffers, strict=True)
            ]
        )

    def submit(self, requests: Sequence[ReadRequest]) -> Reads:
        raise AssertionError("the host reads what should go to the device")
