"""A host and a device of the injected cases, on a clock of their own: the truth is exact."""

from __future__ import annotations

from fakes.device import VirtualDevice

from iopipe.protocols import Event, Events

COPY = 3_500_000
TINY = 1_000
LAUNCH = 2_500


class VirtualRig:
    """Launches take no time, but those of tiny kernels do."""

    def __init__(self) -> None:
        self.device = VirtualDevice()
        self.events: Events = self.device
        self._kernels: list[tuple[int, int]] = []
        self._steps: list[list[tuple[int, int]]] = []

    def now_ns(self) -> int:
        return self.device.host

    def work(self, seconds: float) -> None:
        self.device.host += round(seconds * 1e9)

    def compute(self, seconds: float) -> None:
        self._enqueue(round(seconds * 1e9))

    def compute_tiny(self, num_kernels: int) -> None:
        for _ in range(num_kernels):
            self.device.host += LAUNCH
            self._enqueue(TINY)

    def copy_ahead(self) -> Event:
        self.device.copy_free = max(self.device.host, self.device.copy_free) + COPY
        return self.device.copy_free

    def copy_here(self) -> None:
        end = max(self.device.host, self.device.stream_free) + COPY
        self.device.host = self.device.stream_free = end

    def synchronize(self) -> None:
        self.device.host = max(self.device.host, self.device.stream_free)

    def end_step(self) -> None:
        self._steps.append(self._kernels)
        self._kernels = []

    def gaps_ns(self) -> list[int]:
        pairs = zip(self._steps, self._steps[1:], strict=False)
        return [after[0][0] - before[-1][1] for before, after in pairs]

    def _enqueue(self, length: int) -> None:
        start = max(self.device.stream_free, self.device.host)
        self.device.stream_free = start + length
        self._kernels.append((start, start + length))
