"""Several compute streams seen as one: idle is when all of them are.

Stands between the meter and the clocks of the streams.  Invariant: of two joint events with
no work enqueued in between, the elapsed time is the time in which every stream stood idle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from iopipe.protocols import Event, Events


@dataclass(frozen=True, slots=True, eq=False)
class _Joint:
    """The same moment of the host on each stream."""

    events: tuple[Event, ...]


class JointEvents:
    """`Events` over one clock a stream; all must count the same time (one device).

        stream 1 busy until 30, stream 2 until 50, host asks at 10, hands over at 70:
        marks (30, 50) and (70, 70); latest to latest is 20, when both stood idle

    The first stream is the one that is made to wait for a batch; what a further one does with
    something else while the first waits for bytes is not seen.
    """

    def __init__(self, streams: Sequence[Events]) -> None:
        """`ValueError` where there is none."""
        if not streams:
            raise ValueError("no stream was given: name at least the one that trains")
        self._streams = tuple(streams)

    @property
    def stream(self) -> str:
        return " + ".join(stream.stream for stream in self._streams)

    def record(self) -> Event:
        return _Joint(tuple(stream.record() for stream in self._streams))

    def wait(self, event: Event) -> None:
        """`event` is a single one, as a copy stream recorded it."""
        self._streams[0].wait(event)

    def done(self, event: Event) -> bool:
        return all(s.done(one) for s, one in zip(self._streams, event.events, strict=True))

    def synchronize(self, event: Event) -> None:
        for stream, one in zip(self._streams, event.events, strict=True):
            stream.synchronize(one)

    def elapsed_ns(self, start: Event, end: Event) -> int:
        if start is end:
            return 0
        return self._latest_ns(start, end) - self._latest_ns(start, start)

    def release(self, event: Event) -> None:
        for stream, one in zip(self._streams, event.events, strict=True):
            stream.release(one)

    def _latest_ns(self, origin: Event, event: Event) -> int:
        """The last stream's moment, counted from the first stream's at `origin`."""
        first = origin.events[0]
        return max(
            s.elapsed_ns(first, one) for s, one in zip(self._streams, event.events, strict=True)
        )
