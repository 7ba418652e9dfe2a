"""What a report is made of, as frozen values.

Stands under the report; whoever measures a part of it makes one of these.  Invariant: a value
never changes, and its fields say how their numbers are read.
"""

from __future__ import annotations

from dataclasses import dataclass

from iopipe.protocols import Cause

IDLE_CAUSES = (
    "storage",
    "decode",
    "transform",
    "collate",
    "queue",
    "h2d",
    "gpu_decode",
    "launch",
    "other_host",
)
"""What the stream can have stood idle for between two steps; in JSON all are there, 0 where
nothing was measured.  'loader' is added where a loader's inside was not seen."""

NOT_INPUT = ("launch", "other_host")
"""Those of them that no input can win back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interference:
    """By how much steps are longer while the input works."""

    fraction: float
    """Of the step; 0.08: a step takes 8 % longer than with the input at rest."""
    low: float
    """The 95 % interval, over pairs of neighbouring windows.  It holds 0: none detected."""
    high: float
    num_pairs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageUse:
    """What the run read, beside what its storage can give."""

    bytes_per_second: float
    """Of the samples that were consumed, over the wall time."""
    ceiling_bytes_per_second: float
    """Measured, see `iopipe.storage.ceiling`; never presumed."""
    how: str
    """... and how that was measured."""

    @property
    def share(self) -> float:
        """Near 1: faster input needs faster storage; near 0: storage is not what limits."""
        return self.bytes_per_second / self.ceiling_bytes_per_second


@dataclass(frozen=True, slots=True, kw_only=True)
class StageReport:
    """How busy the threads of one stage were."""

    name: str
    cause: Cause
    concurrency: int
    num_items: int
    busy_seconds: float
    """Summed over the stage's threads."""
    busy_fraction: float
    """Near 1: its threads work all the time, more of them may help; near 0: it waits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeReport:
    """How full the queue behind a stage was, and who waited at it."""

    name: str
    """The stage in front of it."""
    capacity: int
    num_items: int
    put_wait_seconds: float
    """How long the stage in front waited for room; large: what comes behind is slower."""
    get_wait_seconds: float
    """How long the stage behind waited for items; large: what comes in front is slower."""
    mean_occupancy: float
    """Items that lay in it, averaged over time.  Near 0: the stage behind starves; near
    `capacity`: the stage behind is the slow one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorReport:
    """Damaged samples that the error policy let go."""

    num_skipped: int = 0
    examples: tuple[str, ...] = ()
    """The first hundred, each with shard, offset, key and reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WhatIf:
    """What a change of the input would bring."""

    change: str
    now: float
    """Samples/s without it, over the steps that were replayed.  They are the run's last ones, so
    that a cold start of the whole run does not look like something to be won."""
    samples_per_second: float
    """Predicted by replaying the recorded steps."""
    low: float
    """The interval of that prediction, 95 %.  It holds `now`: no change that one could
    detect."""
    high: float
    bound: float
    """`now` / (1 - s), s being the share of the stall that the change removes:
    exact for constant times, too low for bursts near saturation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Percentiles:
    """Of one quantity over the steps kept, in milliseconds."""

    p50: float = 0.0
    p95: float = 0.0
    p99: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step: from the arrival of the batch before it to the arrival of its own, on the
    clock of the compute stream."""

    start_ns: int
    """Since the arrival of the first batch, pauses between iterations left out."""
    duration_ns: int
    stall_ns: int
    """The part of it in which the compute stream had nothing to do because of the input."""
    cause: Cause
    """What most of the stall waited for."""
