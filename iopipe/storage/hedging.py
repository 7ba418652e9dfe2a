"""A second request where the first one takes unusually long, and the first answer counts.

Stands between `storage.objects` and its threads.  Invariant: a request's buffer is written under
its lock and never again once it is over, whoever served it, so that a slow answer may come after
`wait` has returned.

Unusually long is longer than what all but one in a hundred recent requests of that size took.
The bytes asked for twice are a small share of those that were served: where everything became
slow, a hedge is no remedy (Dean and Barroso, The Tail at Scale, 2013).
"""

from __future__ import annotations

import threading
import time
from bisect import insort
from collections import deque
from collections.abc import Callable, Sequence

from iopipe.protocols import ReadRequest

_REMEMBERED = 256
_ENOUGH = 50
"""Fewer answers than this say nothing of what is usual."""
_QUANTILE, _TIMES_MEDIAN = 0.99, 3.0
_LEAST_SECONDS = 0.05
_LOOK_SECONDS = 0.05
_LEAST_BYTES, _MAX_CREDIT_BYTES = 64 << 10, 64 << 20
"""What a small request counts as, for the server; what may be saved up."""


class Over(Exception):
    """Somebody else has served this request, or nobody waits for it any more."""


class Race:
    """One request, and whoever wants to serve it."""

    __slots__ = (
        "_lock",
        "_reads",
        "begun",
        "error",
        "is_hedged",
        "is_over",
        "num_bytes",
        "request",
    )

    def __init__(self, request: ReadRequest, reads: RacedReads) -> None:
        self.request = request
        self.num_bytes = 0
        self.error: BaseException | None = None
        self.begun: float | None = None
        """When it was first sent; None while it waits for a thread."""
        self.is_over = self.is_hedged = False
        self._reads: RacedReads | None = reads
        self._lock = threading.Lock()

    def put(self, place: int, part: memoryview) -> None:
        """Write a part of the answer, unless the request is over."""
        with self._lock:
            if self.is_over:
                raise Over
            self.request.buffer[place : place + len(part)] = part

    def done(self, num_bytes: int) -> None:
        """All parts are there."""
        with self._lock:
            if self.is_over:
                raise Over
            self._end(num_bytes)

    def win(self, content: memoryview) -> None:
        """Serve the request, unless it is over."""
        with self._lock:
            if self.is_over:
                raise Over
            self.request.buffer[: len(content)] = content
            self._end(len(content))

    def fail(self, error: BaseException) -> None:
        with self._lock:
            if self.is_over:
                return
            self.error = error
            self._end(0)

    def _end(self, num_bytes: int) -> None:
        self.num_bytes, self.is_over = num_bytes, True
        # Cut here, or both would live, with the buffers, until cycles are collected.
        reads, self._reads = self._reads, None
        assert reads is not None
        reads.one_less()


class RacedReads:
    """`Reads` that are over one by one, whatever threads are still at work for them.

    `look_after(race)` is called by the thread that waits, now and then, for each request that
    was begun and is not over.
    """

    def __init__(
        self, requests: Sequence[ReadRequest], *, look_after: Callable[[Race], None]
    ) -> None:
        self.races = [Race(request, self) for request in requests]
        self._left = deque(self.races)
        self._look_after = look_after
        self._num_left = len(self.races)
        self._lock = threading.Lock()
        self._all_over = threading.Event()
        if not requests:
            self._all_over.set()

    def drain(self, serve: Callable[[Race], None]) -> None:
        """Serve races until none is left to begin; a `serve` that fails fails its race."""
        while self._left:
            try:
                race = self._left.popleft()
            except IndexError:
                return
            try:
                serve(race)
            except Over:
                continue
            except BaseException as error:  # `wait` raises it, in the thread that it concerns
                race.fail(error)

    def one_less(self) -> None:
        with self._lock:
            self._num_left -= 1
            is_last = self._num_left == 0
        if is_last:
            self._all_over.set()

    def wait(self) -> list[int]:
        while not self._all_over.wait(_LOOK_SECONDS):
            for race in self.races:
                if race.begun is not None and not race.is_over:
                    self._look_after(race)
        for race in self.races:
            if race.error is not None:
                raise race.error
        return [race.num_bytes for race in self.races]


class Hedges:
    """What is usual, and what a second request may cost; thread-safe."""

    def __init__(self, *, share: float, clock: Callable[[], float] = time.monotonic) -> None:
        """`share` of the bytes served may be asked for twice; 0: none."""
        self._share = share
        self._clock = clock
        self._lock = threading.Lock()
        self._seconds: dict[int, tuple[deque[float], list[float]]] = {}
        """By size class: in the order of their coming, and sorted."""
        self._credit_bytes = 0.0
        self.num_hedged = self.num_won = 0

    def served(self, num_bytes: int, seconds: float) -> None:
        with self._lock:
            credit = self._credit_bytes + self._share * max(num_bytes, _LEAST_BYTES)
            self._credit_bytes = min(credit, _MAX_CREDIT_BYTES)
            recent, ordered = self._seconds.setdefault(_class_of(num_bytes), (deque(), []))
            recent.append(seconds)
            insort(ordered, seconds)
            if len(recent) > _REMEMBERED:
                ordered.remove(recent.popleft())

    def unusual_seconds(self, num_bytes: int) -> float | None:
        """From when on a request of that size is late; None while too few were seen."""
        with self._lock:
            _, ordered = self._seconds.get(_class_of(num_bytes), ((), ()))
            if len(ordered) < _ENOUGH:
                return None
            most = ordered[int(_QUANTILE * (len(ordered) - 1))]
            return max(most, _TIMES_MEDIAN * ordered[len(ordered) // 2], _LEAST_SECONDS)

    def may_ask_twice(self, race: Race) -> bool:
        """Whether this one is late and can be paid for; it is paid for with that."""
        num_bytes = len(race.request.buffer)
        limit = self.unusual_seconds(num_bytes)
        if limit is None or race.begun is None or self._clock() - race.begun < limit:
            return False
        cost = max(num_bytes, _LEAST_BYTES)
        with self._lock:
            if race.is_hedged or race.is_over or cost > self._credit_bytes:
                return False
            race.is_hedged = True
            self._credit_bytes -= cost
            self.num_hedged += 1
            return True

    def won(self) -> None:
        with self._lock:
            self.num_won += 1


def _class_of(num_bytes: int) -> int:
    """Sizes within a factor of four of each other take about as long."""
    return num_bytes.bit_length() // 2
