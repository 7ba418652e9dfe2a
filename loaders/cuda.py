"""The way to a CUDA device: pinned memory, a copy stream, and its events.

Stands under the delivery of batches.  Invariant: nothing here blocks the thread that
trains; order between the copy stream and the training step is kept by events alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from iopipe.errors import PipelineError
from iopipe.loaders.pinned import lock_failure
from iopipe.loaders.shared import private_slot
from iopipe.meter.events import CudaEvents
from iopipe.protocols import Event, Events


class CudaLink:
    """One device and one copy stream; `send` is for one thread.

    A thread's current device is 0 until it says otherwise, and what is page-locked there, or a
    stream that is left for one of device 0, makes a context on GPU 0: half a gigabyte in every
    rank.  So the device is made current first (torch takes care of the way back).
    """

    def __init__(self, device: str, *, node: int | None = None) -> None:
        """`node` is where the host's slots should lie; None: wherever the kernel puts them."""
        self.node = node
        if not torch.cuda.is_available():
            raise PipelineError(
                f"device {device!r} needs CUDA, which torch does not see here; use 'cpu'"
            )
        self._device = torch.device(device)
        if self._device.index is None:
            self._device = torch.device("cuda", torch.cuda.current_device())
        if self._device.index >= torch.cuda.device_count():
            raise PipelineError(
                f"device {device!r} does not exist; torch sees {torch.cuda.device_count()} of them"
            )
        self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        self._events = CudaEvents(self._device)

    @property
    def events(self) -> Events:
        return self._events

    def allocate_host(self, num_bytes: int) -> torch.Tensor:
        """Page-locked memory: only from there does a copy run beside the host."""
        return private_slot(num_bytes, pinning=self, node=self.node).buffer

    def pin(self, address: int, num_bytes: int) -> None:
        """Page-lock memory that is mapped already."""
        runtime: Any = torch.cuda.cudart()  # type: ignore[no-untyped-call]
        with torch.cuda.device(self._device):
            code = runtime.cudaHostRegister(address, num_bytes, 0)
        if int(code):
            raise lock_failure(num_bytes, code)

    def unpin(self, address: int) -> None:
        runtime: Any = torch.cuda.cudart()  # type: ignore[no-untyped-call]
        with torch.cuda.device(self._device):
            runtime.cudaHostUnregister(address)

    def allocate_device(self, num_bytes: int) -> torch.Tensor:
        return torch.empty(num_bytes, dtype=torch.uint8, device=self._device)

    def send(self, target: torch.Tensor, source: torch.Tensor, after: Event | None) -> Event:
        """Enqueue the copy on the copy stream, to run after `after`; the event of its end."""
        with torch.cuda.device(self._device), torch.cuda.stream(self._stream):
            if after is not None:
                self._stream.wait_event(after)
            target.copy_(source, non_blocking=True)
            return self._stream.record_event()

    def follow(self, work: Callable[[], None]) -> Event:
        """Let `work` enqueue what comes after the copies so far; the event of its end."""
        with torch.cuda.device(self._device), torch.cuda.stream(self._stream):
            work()
            return self._stream.record_event()

    def end_of_use(self) -> Callable[[], Event]:
        """Remember the calling thread's stream; the answer, called from any thread, gives
        the event after all that this stream has been given so far."""
        stream = torch.cuda.current_stream(self._device)
        return stream.record_event
