"""How far the host runs ahead of the compute stream.

Stands beside the tally.  Invariant: no mark is reached by the stream before the host made
it, so the smallest distance seen between the two clocks is the closest to their true one.
"""

from __future__ import annotations

_DRIFT = 100e-6
"""Two quartz clocks differ by tens of parts in a million at most; corrected ones by less."""


class RunAhead:
    """Maps the stream's clock to the host's while a loop runs.

        host asks at 50, the stream gets there at 90 of its clock, offset 10  ->  lead 30

    Exact where the stream was idle at some mark, which is usual for the first; before that
    a lead comes out too small, never too large.  A drift of the clocks is followed in each
    stall; over an hour without any stall it can add or hide some tens of milliseconds.
    """

    def __init__(self) -> None:
        self.restart(0, 0)

    def restart(self, host_ns: int, stream_ns: int) -> None:
        """Take this mark for one that the stream reached at once."""
        self._offset_ns = stream_ns - host_ns
        self._since_ns = host_ns

    def at_request(self, host_ns: int, stream_ns: int) -> int:
        """Nanoseconds of work that the stream still had when the host made this mark."""
        if stream_ns - host_ns < self._offset_ns:
            self.restart(host_ns, stream_ns)
        return stream_ns - host_ns - self._offset_ns

    def at_idle(self, host_ns: int, stream_ns: int) -> None:
        """A mark that found the stream without work: what sets it apart from the offset is
        drift, or else work that somebody enqueued in between, which proves nothing."""
        moved_ns = stream_ns - host_ns - self._offset_ns
        if moved_ns <= _DRIFT * (host_ns - self._since_ns):
            self.restart(host_ns, stream_ns)
