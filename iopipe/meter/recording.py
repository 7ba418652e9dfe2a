"""What is kept of the last steps, so that the run can be replayed under other conditions.

Stands behind the tally and in front of the replay.  Invariant: memory does not grow with the
number of steps; what is kept is a contiguous stretch of them, ending with the latest.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from iopipe.meter.spans import Span

MAX_RECORDED = 4096
"""Steps.  Below some 3000 a replay adds noise to what the mean rates say already."""


@dataclass(slots=True, kw_only=True)  # a frozen one takes 2 us longer to make
class RecordedStep:
    """One batch, its hand-off and its step; nanoseconds."""

    wait_ns: int
    """The stream stood idle before the hand-off, waiting for the host's input."""
    copy_ns: int
    """... and after it, waiting for the batch's bytes."""
    launch_ns: int
    """... and then until the first kernel came."""
    device_ns: int
    """From the first kernel to the end of the last, where the end is marked; else to the
    request for the next batch."""
    host_ns: int
    """On the host's clock, from the hand-off to the request for the next batch."""
    after_ns: int
    """The stream stood idle between its last kernel and that request."""
    steps_ahead: int
    """Whole steps, this one included, that the stream had not ended at that request.  0: it
    had nothing left to do: the host waited for it, or is the slower of the two."""
    since_ns: int
    """At that request, since the end of the latest step that the stream had ended."""
    travel_ns: int
    """From the end of the last span to the hand-off; where the batch was waited for, what its
    way from the last stage to the loop took."""
    take_ns: int
    """The loop's own work to take over a batch that was there, unpacking it for instance."""
    num_samples: int
    spans: tuple[Span, ...]
    """What was done to the batch before it was handed over."""


class Recording:
    """The last steps."""

    def __init__(self, max_steps: int = MAX_RECORDED) -> None:
        self._steps: deque[RecordedStep] = deque(maxlen=max_steps)

    def add(self, step: RecordedStep) -> None:
        self._steps.append(step)

    def clear(self) -> None:
        """A pause, or another loader: what came before does not belong to what comes."""
        self._steps.clear()

    def steps(self) -> tuple[RecordedStep, ...]:
        return tuple(self._steps)
