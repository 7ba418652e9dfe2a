"""The recorded run once more, with other input: who waits for whom, in sums and maxima.

Stands behind the recording and in front of the report.  Invariant: durations stay what they
were, only waiting is worked out anew; with nothing changed the replay ends when the run did.

Of step i, with `ask` the request for its batch, `free` the end of the work before it:

    handed   = max(ask, batch ready)
    first    = max(free, handed + copy + launch)
    end      = first + device
    next ask = end + after    where the stream ran dry
               handed + host  where the host ran ahead

A host that is several steps ahead is held back by the stream: CUDA takes only so many launches
at a time.  It then asks when an earlier step ends, if that is sooner.

Such recurrences are linear in the max-plus algebra (Baccelli, Cohen, Olsder, Quadrat,
"Synchronization and Linearity", 1992).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from iopipe.meter.recording import RecordedStep

Ready = Callable[[int, int], int]
"""(batch, moment of its request) -> the moment of its hand-off, not before the request."""


def replay(
    steps: Sequence[RecordedStep], ready: Ready, *, with_copies: bool = True
) -> list[tuple[int, int]]:
    """(request for the next batch, end of the kernels) of every step, in nanoseconds from the
    request for the first batch, as `ready` and, without copies, immediate bytes would have it."""
    ask = free = 0
    moments: list[tuple[int, int]] = []
    for number, step in enumerate(steps):
        handed = ready(number, ask)
        copy_ns = step.copy_ns if with_copies else 0
        free = max(free, handed + copy_ns + step.launch_ns) + step.device_ns
        moments.append((_next_ask(step, handed, free, moments), free))
        ask = moments[-1][0]
    return moments


def _next_ask(step: RecordedStep, handed: int, end: int, moments: Sequence[tuple[int, int]]) -> int:
    ahead = step.steps_ahead
    if ahead == 0:
        return end + step.after_ns
    if ahead == 1 or ahead > len(moments):
        return handed + step.host_ns
    held_until = max(handed, moments[-ahead][1] + step.since_ns)
    return min(handed + step.host_ns, held_until)


def recoverable_ns(steps: Sequence[RecordedStep]) -> int:
    """What the steps would take less, had every batch been there when it was asked for.

    Steps that are slow to launch their kernels leave the stream idle with any input: their
    gaps are attributed to the input, but nothing can be won back there.
    """
    if not steps:
        return 0
    recorded_ns = _length_ns(steps)
    _, ideal_ns = replay(steps, lambda number, ask: ask, with_copies=False)[-1]
    return max(0, recorded_ns - ideal_ns)


def _length_ns(steps: Sequence[RecordedStep]) -> int:
    """On the stream's clock, to the end of the last kernel."""
    total_ns = sum(
        step.wait_ns + step.copy_ns + step.launch_ns + step.device_ns + step.after_ns
        for step in steps
    )
    return total_ns - steps[-1].after_ns
