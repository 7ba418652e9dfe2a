"""What was measured, as frozen values.

Stands at the end of the meter.  Invariant: a report can be printed, compared and written
as JSON; it never changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from iopipe.meter.verdict import verdict_of
from iopipe.protocols import Cause

SCHEMA = 1

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
    samples_per_second: float
    """Predicted by replaying the recorded steps."""
    low: float
    """The interval of that prediction, 95 %.  It holds the measured rate: no change that
    one could detect."""
    high: float
    bound: float
    """The measured rate / (1 - s), s being the share of the stall that the change removes:
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Whether the training step starved, of what, and how much."""

    compute_stream: str = "host thread"
    """Whose clock the stalls are on.  'host thread': compute runs where the batches are
    asked for, so every wait for a batch is a stall."""
    num_steps: int = 0
    """Hand-offs after the first one, each with the step before it."""
    num_samples: int = 0
    """Consumed within `wall_seconds`; a batch counts when its step is over."""
    wall_seconds: float = 0.0
    """On the clock of `compute_stream`, from the arrival of the first batch to the last
    request; pauses between two iterations are left out."""
    samples_per_second: float = 0.0
    """`num_samples` over `wall_seconds`: what the training loop consumed."""
    first_batch_seconds: float = 0.0
    """From the first request until the first batch was there, copies included; no part of
    `wall_seconds` and of no stall."""
    cpu_seconds: float = 0.0
    """Of this process while it iterated, all threads, the training step included; worker
    processes are not seen."""
    attributed_stall_seconds: float = 0.0
    """Time in which the compute stream had nothing to do because its input was not there.  A
    step that is slow to launch its kernels would have left part of it idle anyway, so this is
    the most that a faster input can win back."""
    attributed_stall_fraction: float = 0.0
    """Near 0: the step was fed; near 1: it waited nearly all the time."""
    causes: Mapping[str, float] = field(default_factory=dict)
    """What the stall waited for, as fractions of `wall_seconds`; they add up to the one
    above."""
    recoverable_stall_fraction: float = 0.0
    """Of `wall_seconds`: what the same steps would have taken less with every batch there when
    asked for.  Well below the attributed stall: the step is bound by its launches, and faster
    input would win back only this much."""
    launch_fraction: float = 0.0
    """Idle between the batch's arrival and the first kernel.  Measured only where `begin()`
    marks that kernel."""
    other_host_fraction: float = 0.0
    """Idle between the end of a step and the request for the next batch: the user's own
    code, not the input.  Measured only where `step()` marks the end of each step."""
    step_ms: Percentiles = field(default_factory=Percentiles)
    """From batch to batch.  p99 far above p50: a few steps wait for stragglers."""
    stall_ms: Percentiles = field(default_factory=Percentiles)
    """The starved part of them.  p50 near 0 with a large p99: bursts, which deeper buffers
    cover; p50 near p99: a loader that is too slow throughout."""
    lead_ms: float = 0.0
    """Median host run-ahead: how long the stream still had work when the next batch was
    asked for.  Falls towards 0 before stalls begin; always 0 on the host thread.  Taken from
    two clocks (see `meter.lead`): too small until the stream was once found idle."""
    stages: tuple[StageReport, ...] = ()
    edges: tuple[EdgeReport, ...] = ()
    errors: ErrorReport = field(default_factory=ErrorReport)
    steps: tuple[Step, ...] = field(default=(), repr=False)
    """The last steps (`max_steps` of the meter), for pictures; the percentiles are theirs."""
    what_if: tuple[WhatIf, ...] = ()
    """Predictions, where the loader's stages are known."""
    interference: Interference | None = None
    """What the input costs without stopping the step; None where no windows of cached batches
    were asked for, or fewer than two have passed."""
    notes: tuple[str, ...] = ()
    """What stages did otherwise than their names say, how often and why: images that a GPU
    decoder does not take, and the like."""
    storage: StorageUse | None = None
    """None where nobody measured what the storage can give."""
    straggler: str = ""
    """The rank that cost all others most, and how much; empty for one rank."""
    low_confidence: str = ""
    """Why this report should not be trusted; empty where nothing speaks against it."""
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def cpu_ms_per_step(self) -> float:
        """Milliseconds of CPU time that this process took for a step, all its threads together:
        the loop's own Python, its kernel launches, and what of the input runs here.  Well below
        the step's length: the process is left idle; above it: threads hold each other up."""
        return 1e3 * self.cpu_seconds / self.num_steps if self.num_steps else 0.0

    @property
    def verdict(self) -> str:
        """Starved or fed, by how much, of what, and what would help."""
        return verdict_of(self)

    def to_json(self) -> dict[str, Any]:
        """Plain values of schema 1; single steps are left out.

        `causes` has every name of `IDLE_CAUSES`, launch and other host time included, as
        fractions of the wall time.
        """
        bare = replace(self, steps=())  # a hundred thousand would take a second
        values = {"schema": SCHEMA, **asdict(bare), "verdict": self.verdict}
        values["cpu_ms_per_step"] = self.cpu_ms_per_step
        del values["steps"]
        measured = {
            **self.causes,
            "launch": self.launch_fraction,
            "other_host": self.other_host_fraction,
        }
        values["causes"] = {**dict.fromkeys(IDLE_CAUSES, 0.0), **measured}
        values["environment"] = dict(self.environment)
        values["stages"] = [self._stage_json(stage) for stage in self.stages]
        return values

    def _stage_json(self, stage: StageReport) -> dict[str, Any]:
        edges = {edge.name: edge.put_wait_seconds for edge in self.edges}
        available = stage.busy_seconds / stage.busy_fraction if stage.busy_fraction else 0.0
        blocked = min(edges.get(stage.name, 0.0) / available if available else 0.0, 1.0)
        blocked = min(blocked, max(0.0, 1 - stage.busy_fraction))
        return {
            **asdict(stage),
            "threads": stage.concurrency,
            "busy": stage.busy_fraction,
            "blocked": blocked,
            "idle": max(0.0, 1 - stage.busy_fraction - blocked),
        }

    def __str__(self) -> str:
        lines = [
            self.verdict,
            f"  compute stream {self.compute_stream}, {self.num_steps} steps, "
            f"{self.num_samples} samples in {self.wall_seconds:.2f} s "
            f"({self.samples_per_second:,.0f}/s), first batch after "
            f"{self.first_batch_seconds:.2f} s",
            f"  step {_shown(self.step_ms)}, stall {_shown(self.stall_ms)}, "
            f"{self.cpu_ms_per_step:.2f} ms of this process's CPU time a step",
        ]
        lines += [
            f"  {stage.name}: {stage.concurrency} threads busy {100 * stage.busy_fraction:.0f} %"
            for stage in self.stages
        ]
        lines += [
            f"  {one.change}: {one.samples_per_second:,.0f} samples/s "
            f"({one.low:,.0f} to {one.high:,.0f}; bound {one.bound:,.0f})"
            for one in self.what_if
        ]
        lines += [f"  {note}" for note in self.notes]
        if self.straggler:
            lines.append(f"  {self.straggler}")
        if self.errors.num_skipped:
            lines.append(f"  {self.errors.num_skipped} damaged samples left out")
        return "\n".join(lines)


def _shown(percentiles: Percentiles) -> str:
    return (
        f"p50 {percentiles.p50:.2f} ms, p95 {percentiles.p95:.2f} ms, p99 {percentiles.p99:.2f} ms"
    )
