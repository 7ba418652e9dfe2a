"""Requests sorted by the blocks that they need.

Stands between `storage.cache` and its threads.  Invariant: a block is served once for all requests
of a submission, and when `wait` returns or raises, no buffer is written to any more.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass

from iopipe.errors import StorageError
from iopipe.protocols import ReadRequest


class Part:
    """What one request wants of one block, and what it got."""

    __slots__ = ("buffer", "num_bytes", "number", "offset")

    def __init__(self, number: int, offset: int, buffer: memoryview) -> None:
        self.number = number
        """Of the request."""
        self.offset = offset
        """Within the block."""
        self.buffer = buffer
        self.num_bytes = 0


@dataclass(frozen=True, slots=True)
class Block:
    """One block of an object, and who wants what of it."""

    path: str
    number: int
    parts: list[Part]

    def clip(self, length: int) -> list[Part]:
        """The parts that want something of a block of `length` bytes, their buffers cut to it."""
        for part in self.parts:
            part.num_bytes = max(0, min(len(part.buffer), length - part.offset))
            part.buffer = part.buffer[: part.num_bytes]
        return [part for part in self.parts if part.num_bytes]


class CachedReads:
    """`Reads` by blocks: what several requests want of one is fetched once."""

    def __init__(self, requests: Sequence[ReadRequest], block_bytes: int) -> None:
        self._num_requests = len(requests)
        blocks: dict[tuple[str, int], Block] = {}
        for number, request in enumerate(requests):
            at, end = request.offset, request.offset + max(1, len(request.buffer))
            while at < end:
                place = request.path, at // block_bytes
                next_at = min(end, (place[1] + 1) * block_bytes)
                buffer = request.buffer[at - request.offset : next_at - request.offset]
                block = blocks.setdefault(place, Block(*place, []))
                block.parts.append(Part(number, at % block_bytes, buffer))
                at = next_at
        self._blocks = list(blocks.values())
        self._left = deque(self._blocks)
        self._errors: dict[int, StorageError] = {}
        self.futures: list[Future[None]] = []

    def __len__(self) -> int:
        return len(self._blocks)

    def drain(self, serve: Callable[[Block], None]) -> None:
        while True:
            try:
                block = self._left.popleft()
            except IndexError:
                return
            try:
                serve(block)
            except StorageError as error:
                self._errors.update((part.number, error) for part in block.parts)

    def wait(self) -> list[int]:
        for future in wait(self.futures).done:
            future.result()
        if self._errors:
            raise self._errors[min(self._errors)]
        counts = [0] * self._num_requests
        for block in self._blocks:
            for part in block.parts:
                counts[part.number] += part.num_bytes
        return counts
