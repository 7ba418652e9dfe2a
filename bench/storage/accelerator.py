"""What stands in for an accelerator: a sleep, as in DLIO, or a GPU that really computes.

Stands under `emulation`.  Invariant: `compute` returns when the step's computation is over, and
`deliver` when the sample's bytes are where the accelerator's data is.
"""

from __future__ import annotations

import time
from typing import Any, Protocol

from iopipe.bench.storage.lanes import cuda_torch, host_memory

_MATRIX = 4096
_CALIBRATION_ROUNDS = 20


class Accelerator(Protocol):
    def scratch(self, num_bytes: int) -> memoryview:
        """Host memory that one reading thread reads into, sample after sample."""
        ...

    def deliver(self, sample: memoryview) -> None:
        """Called by the thread that read it."""
        ...

    def compute(self, seconds: float) -> None: ...


class SleepingAccelerator:
    """DLIO's: computation is a sleep, and data ends in host memory."""

    def scratch(self, num_bytes: int) -> memoryview:
        return host_memory(num_bytes, pinned=False)

    def deliver(self, sample: memoryview) -> None:
        """It is there."""

    def compute(self, seconds: float) -> None:
        time.sleep(seconds)


class GpuAccelerator:
    """The current CUDA device: samples are copied to it from pinned memory, and a step is matrix
    products that keep it busy for as long as the workload's step is.

    Several emulated accelerators on one GPU would compute in each other's time: use one each.
    """

    def __init__(self) -> None:
        self._torch = torch = cuda_torch()
        shape = (_MATRIX, _MATRIX)
        self._a, self._b = (
            torch.randn(shape, device="cuda", dtype=torch.bfloat16) for _ in range(2)
        )
        self._product = torch.empty(shape, device="cuda", dtype=torch.bfloat16)
        self._seconds_each = self._calibrated()
        self._device: dict[int, tuple[Any, Any, Any]] = {}
        """By address of the scratch memory: (pinned tensor, device tensor, stream)."""

    def scratch(self, num_bytes: int) -> memoryview:
        torch = self._torch
        host = torch.empty(num_bytes, dtype=torch.uint8, pin_memory=True)
        device = torch.empty(num_bytes, dtype=torch.uint8, device="cuda")
        self._device[host.data_ptr()] = (host, device, torch.cuda.Stream())
        return memoryview(host.numpy())

    def deliver(self, sample: memoryview) -> None:
        torch = self._torch
        address = torch.frombuffer(sample, dtype=torch.uint8).data_ptr()
        host, device, stream = self._device[address]
        with torch.cuda.stream(stream):
            device[: len(sample)].copy_(host[: len(sample)], non_blocking=True)
        stream.synchronize()

    def compute(self, seconds: float) -> None:
        for _ in range(max(1, round(seconds / self._seconds_each))):
            self._torch.mm(self._a, self._b, out=self._product)
        self._torch.cuda.current_stream().synchronize()

    def _calibrated(self) -> float:
        """Seconds of one product, by events, after a warm-up."""
        cuda = self._torch.cuda
        start, end = (cuda.Event(enable_timing=True) for _ in range(2))
        for _ in range(_CALIBRATION_ROUNDS):
            self._torch.mm(self._a, self._b, out=self._product)
        start.record()
        for _ in range(_CALIBRATION_ROUNDS):
            self._torch.mm(self._a, self._b, out=self._product)
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / 1e3 / _CALIBRATION_ROUNDS
