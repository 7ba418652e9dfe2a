"""How many requests a server is asked at once, and how soon after each other.

Stands between `storage.objects` and the requests that it makes.  Invariant: a request begins only
when there is a place for it, and no sooner after the last one than the rate allows.

Places begin few and double with every round trip, as TCP's slow start has it, up to the limit.
The rate is unlimited until the server says that it is asked too often (429, 503): it is then set
below what was really served, and raised again step by step as long as nothing is refused
(additive increase, multiplicative decrease; Chiu and Jain 1989).  Requests are spaced evenly: a
limit that counts in steps of 20 ms refuses a burst that keeps to the limit on average.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

_FIRST_PLACES = 4
_WINDOW_SECONDS = 1.0
_FEW = 10
"""Fewer answers than this say nothing of a rate."""
_CAUTIOUS_RATE = 10.0
_DECREASE, _INCREASE, _SEARCH = 0.8, 1.05, 1.5
_REMEMBERED_SECONDS, _BELOW = 10.0, 0.97
"""How long what was refused is not tried again, and how near it one may go."""


class Pace:
    """One for each server; thread-safe.  `begin`, then `served`, `refused` or `failed`."""

    def __init__(
        self,
        *,
        max_places: int,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._max_places = max_places
        self._clock = clock
        self._sleep = sleep
        self._changed = threading.Condition()
        self._places = float(min(_FIRST_PLACES, max_places))
        self._num_under_way = 0
        self.rate: float | None = None
        """Requests a second; None: unlimited."""
        self._next_start = 0.0
        self._served: deque[float] = deque()
        """When requests were served, of the last second."""
        self._since_raise = 0
        self._is_searching = True
        self._cut_at = float("-inf")
        self._refused_rate = float("inf")
        """What was too much, when it was last tried."""
        self.num_refused = 0

    def begin(self) -> float:
        """Wait for a turn; the moment of its start, which `refused` wants back."""
        with self._changed:
            self._changed.wait_for(lambda: self._num_under_way < int(self._places))
            self._num_under_way += 1
            start = now = self._clock()
            if self.rate is not None:
                start = max(now, self._next_start)
                self._next_start = start + 1 / self.rate
        if start > now:
            self._sleep(start - now)
        return start

    def begin_beside(self) -> float:
        """Begin without a turn, beside a request that is late: it holds its place for nothing."""
        with self._changed:
            self._num_under_way += 1
            return self._clock()

    def served(self) -> None:
        with self._changed:
            now = self._clock()
            self._served.append(now)
            while self._served[0] < now - _WINDOW_SECONDS:
                self._served.popleft()
            is_slow_start = self.rate is None
            self._places += 1 if is_slow_start else 1 / self._places
            self._places = min(self._places, float(self._max_places))
            self._raise()
            self._end()

    def refused(self, start: float) -> None:
        """The server said that it is asked too often.  Requests that began before the last cut
        tell nothing new."""
        with self._changed:
            self.num_refused += 1
            if start > self._cut_at:
                self._cut()
            self._end()

    def failed(self) -> None:
        """Neither: the connection broke, or the object is not there."""
        with self._changed:
            self._end()

    def _end(self) -> None:
        self._num_under_way -= 1
        self._changed.notify_all()

    def _cut(self) -> None:
        now = self._clock()
        recent = sum(moment > now - _WINDOW_SECONDS for moment in self._served)
        if self.rate is not None:
            self._refused_rate = self.rate
            self.rate = max(1.0, self.rate * _DECREASE)
            self._is_searching = False
        elif recent >= _FEW:
            self.rate = max(1.0, recent / _WINDOW_SECONDS * _DECREASE)
        else:
            self.rate = _CAUTIOUS_RATE
        self._places = max(1.0, self._places / 2)
        self._cut_at, self._since_raise = now, 0
        self._next_start = max(self._next_start, now + 1 / self.rate)

    def _raise(self) -> None:
        if self.rate is None:
            return
        self._since_raise += 1
        if self._since_raise < max(_FEW, self.rate * _WINDOW_SECONDS):
            return
        self._since_raise = 0
        raised = self.rate * (_SEARCH if self._is_searching else _INCREASE)
        is_known = self._clock() - self._cut_at < _REMEMBERED_SECONDS
        if not is_known or raised < _BELOW * self._refused_rate:
            self.rate = raised
