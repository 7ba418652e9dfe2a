"""Several streams: idle is when none of them works, against a count of nanoseconds."""

from __future__ import annotations

import pytest
from fakes.device import VirtualDevice
from hypothesis import given
from hypothesis import strategies as st

from iopipe.meter.meter import Meter
from iopipe.meter.streams import JointEvents


class Shared(VirtualDevice):
    """A stream whose host clock is another one's."""

    def __init__(self, first: VirtualDevice) -> None:
        super().__init__()
        self.first = first

    def record(self) -> int:
        return max(self.first.host, self.stream_free)

    def done(self, event: int) -> bool:
        return event <= self.first.host


@given(
    steps=st.lists(
        st.tuples(*[st.integers(0, 40)] * 4, st.integers(0, 60)), min_size=2, max_size=12
    )
)
def test_the_gap_is_the_intersection_of_idle_streams(
    steps: list[tuple[int, int, int, int, int]],
) -> None:
    first = VirtualDevice(host=0)
    second = Shared(first)
    joint = JointEvents([first, second])
    meter = Meter(joint, clock=first.clock)
    busy: set[int] = set()
    waits: list[tuple[int, int]] = []
    for one, other, launch, load, copy in steps:
        meter.enter()
        asked = first.host
        first.host += load
        ready = first.host + copy
        meter.handoff(ready=ready)
        waits.append((asked, max(ready, first.stream_free)))
        for stream, length in ((first, one), (second, other)):
            # The further stream works on the same batch: it starts when that is there.
            start = max(ready, first.host, stream.stream_free)
            busy |= set(range(start, start + length))
            stream.stream_free = start + length
        first.host += launch
    first.host = max(first.host, first.stream_free, second.stream_free)
    begun = waits[0][1]
    idle = {
        moment
        for start, end in waits[1:]
        for moment in range(max(start, begun), end)
        if moment not in busy
    }
    assert round(meter.report().attributed_stall_seconds * 1e9) == len(idle)


def test_the_streams_are_named_and_at_least_one() -> None:
    first, second = VirtualDevice(stream="cuda:0"), VirtualDevice(stream="cuda:0, another")
    assert JointEvents([first, second]).stream == "cuda:0 + cuda:0, another"
    with pytest.raises(ValueError, match="no stream was given"):
        JointEvents([])
