"""When a stage worked on a batch, and what a wait for that batch was a wait for.

Stands between the engine, which writes spans down, and the meter.  Invariant: the parts of
an attributed wait add up to it exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from iopipe.protocols import Cause


class Span(NamedTuple):  # a frozen dataclass takes a microsecond longer to make
    """One stage at work, in nanoseconds of `time.perf_counter_ns`."""

    stage: str
    cause: Cause
    start_ns: int
    end_ns: int


def attribute(spans: Sequence[Span], start_ns: int, end_ns: int) -> dict[Cause, int]:
    """Divide the wait [start_ns, end_ns) for a batch among the stages that made it.

    `spans` tell the story of each chunk in order of time, chunk after chunk in the order in
    which they were done, then what was done to the whole batch.  While a stage worked on
    the chunk that came next, the wait is that stage's; while that chunk stood in front of a
    stage it is that stage's too, whose threads were busy with others; once the last stage
    is done the batch lay in a queue.

        read 0-10, decode 30-50, wait 5-60  ->  storage 5, decode 40, queue 10
    """
    parts: dict[Cause, int] = {}
    cursor = start_ns
    for span in spans:  # whatever ended before the cursor adds nothing
        until = min(max(span.end_ns, cursor), end_ns)
        if until > cursor:
            parts[span.cause] = parts.get(span.cause, 0) + until - cursor
        cursor = until
    if end_ns > cursor:
        parts["queue"] = parts.get("queue", 0) + end_ns - cursor
    return parts
