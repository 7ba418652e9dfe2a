"""A device in memory: two in-order streams that run only when they are told to.

The adversary of every prefetcher: the copy stream runs as early as its waits allow, the
compute stream as late as anybody asks for its results.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import torch


@dataclass(slots=True, eq=False)
class FakeEvent:
    done: bool = False


@dataclass(slots=True)
class FakeStream:
    operations: deque[tuple[FakeEvent | None, Callable[[], None]]] = field(default_factory=deque)

    def enqueue(self, operation: Callable[[], None], after: FakeEvent | None = None) -> None:
        self.operations.append((after, operation))

    def record(self) -> FakeEvent:
        event = FakeEvent()
        self.enqueue(lambda: setattr(event, "done", True))
        return event

    def run_one(self) -> bool:
        """The next operation, if there is one and what it waits for is done."""
        if not self.operations or (self.operations[0][0] and not self.operations[0][0].done):
            return False
        self.operations.popleft()[1]()
        return True


class FakeLink:
    """`Link` and `Events` over two fake streams; 'device' memory is host memory."""

    stream = "fake device"

    def __init__(self) -> None:
        self.copy = FakeStream()
        self.compute = FakeStream()
        self.num_host_allocations = 0
        self.num_device_allocations = 0
        self.num_synchronizations = 0

    @property
    def events(self) -> FakeLink:
        return self

    # ---- Link ------------------------------------------------------------------------

    def allocate_host(self, num_bytes: int) -> torch.Tensor:
        self.num_host_allocations += 1
        return torch.full((num_bytes,), 0xA5, dtype=torch.uint8)

    def allocate_device(self, num_bytes: int) -> torch.Tensor:
        self.num_device_allocations += 1
        return torch.full((num_bytes,), 0xA5, dtype=torch.uint8)

    def send(
        self, target: torch.Tensor, source: torch.Tensor, after: FakeEvent | None
    ) -> FakeEvent:
        self.copy.enqueue(lambda: target.copy_(source), after)
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
            assert self.copy.run_one() or self.compute.run_one(), "deadlock"

    # ---- the adversary ---------------------------------------------------------------

    def run_copies(self) -> None:
        """All copies that nothing holds back."""
        while self.copy.run_one():
            continue

    def finish(self) -> None:
        """Everything, copies first."""
        while self.copy.run_one() or self.compute.run_one():
            continue
        assert not self.copy.operations and not self.compute.operations
