"""A device in memory: two in-order streams that run only when they are told to.

The adversary of every prefetcher: the copy stream runs as early as its waits allow, the
compute stream as late as anybody asks for its results.
"""

from __future__ import annotations

import ctypes
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import torch


def _copied(_: int) -> None:
    """An operation of a stream answers with nothing."""


@dataclass(slots=True, eq=False)
class FakeEvent:
    done: bool = False


@dataclass(slots=True)
class FakeStream:
    operations: deque[tuple[FakeEvent | None, Callable[[], None]]] = field(default_factory=deque)
    running: threading.Lock = field(default_factory=threading.Lock)

    def enqueue(self, operation: Callable[[], None], after: FakeEvent | None = None) -> None:
        self.operations.append((after, operation))

    def record(self) -> FakeEvent:
        event = FakeEvent()
        self.enqueue(lambda: setattr(event, "done", True))
        return event

    def run_one(self) -> bool:
        """The next operation, if there is one and what it waits for is done."""
        with self.running:
            if not self.operations:
                return False
            after, operation = self.operations[0]
            if after is not None and not after.done:
                return False
            operation()
            self.operations.popleft()
            return True


class FakeLink:
    """`Link` and `Events` over two fake streams; 'device' memory is host memory."""

    stream = "fake device"

    def __init__(self) -> None:
        self.copy = FakeStream()
        self.compute = FakeStream()
        self.pinned: dict[int, int] = {}
        self.num_host_allocations = 0
        self.num_device_allocations = 0
        self.num_synchronizations = 0

    @property
    def events(self) -> FakeLink:
        return self

    # ---- Link ------------------------------------------------------------------------

    def pin(self, address: int, num_bytes: int) -> None:
        self.pinned[address] = num_bytes

    def unpin(self, address: int) -> None:
        del self.pinned[address]

    def allocate_host(self, num_bytes: int) -> torch.Tensor:
        self.num_host_allocations += 1
        return torch.full((num_bytes,), 0xA5, dtype=torch.uint8)

    def allocate_device(self, num_bytes: int) -> torch.Tensor:
        self.num_device_allocations += 1
        return torch.full((num_bytes,), 0xA5, dtype=torch.uint8)

    def send(
        self, target: torch.Tensor, source: torch.Tensor, after: FakeEvent | None
    ) -> FakeEvent:
        # Bare addresses, as a copy engine has them: they keep no tensor alive.
        addresses = target.data_ptr(), source.data_ptr(), source.numel()
        self.copy.enqueue(lambda: _copied(ctypes.memmove(*addresses)), after)
        return self.copy.record()

    def follow(self, work: Callable[[], None]) -> FakeEvent:
        self.copy.enqueue(work)
        return self.copy.record()

    def end_of_use(self) -> Callable[[], FakeEvent]:
        return self.compute.record

    # ---- Events ----------------------------------------------------------------------

    def record(self) -> FakeEvent:
        return self.compute.record()

    def wait(self, event: FakeEvent) -> None:
        self.compute.enqueue(lambda: None, event)

    def done(self, event: FakeEvent) -> bool:
        return event.done

    def elapsed_ns(self, start: FakeEvent, end: FakeEvent) -> int:
        return 0

    def release(self, event: FakeEvent) -> None:
        return

    def synchronize(self, event: FakeEvent) -> None:
        self.num_synchronizations += 1
        while not event.done:
            if not (self.copy.run_one() or self.compute.run_one() or event.done):
                raise RuntimeError("the event waits for something that nobody enqueued")

    # ---- the adversary ---------------------------------------------------------------

    def run_copies(self) -> None:
        """All copies that nothing holds back."""
        while self.copy.run_one():
            continue

    def finish(self) -> None:
        """Everything, copies first."""
        while self.copy.run_one() or self.compute.run_one():
            continue
