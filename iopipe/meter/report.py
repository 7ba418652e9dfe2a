"""What was measured, as one frozen value, and what it says in plain words.

Stands at the end of the meter.  Invariant: a report can be printed, compared and written
as JSON; it never changes, and its verdict says nothing that its numbers do not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from iopipe.meter.figures import IDLE_CAUSES as IDLE_CAUSES
from iopipe.meter.figures import NOT_INPUT as NOT_INPUT
from iopipe.meter.figures import EdgeReport as EdgeReport
from iopipe.meter.figures import ErrorReport as ErrorReport
from iopipe.meter.figures import Interference as Interference
from iopipe.meter.figures import Percentiles as Percentiles
from iopipe.meter.figures import StageReport as StageReport
from iopipe.meter.figures import Step as Step
from iopipe.meter.figures import StorageUse as StorageUse
from iopipe.meter.figures import WhatIf as WhatIf

SCHEMA = 1

_FED = 0.01
"""Below this share of stalled time a step is called fed: it is within the noise of clocks."""
_WORTH_NAMING = 0.01
_AS_GOOD = 0.985


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
        return _verdict(self)

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


# ---- the verdict ---------------------------------------------------------------------


def _verdict(report: Report) -> str:
    """Starved or fed, by how much, of what, and what would help."""
    if not report.num_steps:
        return "nothing was measured yet"
    parts = [_starvation(report), *_elsewhere(report)]
    if report.attributed_stall_fraction >= _FED:
        parts += [_recoverable(report), *_remedy(report), *_busiest(report)]
    if report.interference is not None and report.interference.low > 0:
        percent = 100 * report.interference.fraction
        parts.append(f"the input slows the step by {percent:.1f} % while it runs")
    if report.storage is not None:
        percent = 100 * report.storage.share
        parts.append(f"storage is at {percent:.0f} % of its measured ceiling")
    if report.low_confidence:
        parts.append(f"low confidence: {report.low_confidence}")
    return "; ".join(parts)


def _starvation(report: Report) -> str:
    percent = 100 * report.attributed_stall_fraction
    if report.attributed_stall_fraction < _FED:
        return f"fed: the training step starved {percent:.1f} % of the time"
    parts = sorted(report.causes.items(), key=lambda part: -part[1])
    split = ", ".join(f"{name} {100 * share:.1f} %" for name, share in parts if share > 5e-4)
    return f"the training step starved {percent:.1f} % of the time: {parts[0][0]}-bound ({split})"


def _recoverable(report: Report) -> str:
    return f"{100 * report.recoverable_stall_fraction:.1f} % recoverable"


def _elsewhere(report: Report) -> list[str]:
    """Idle time that no input can win back."""
    named = {
        "launching its first kernel": report.launch_fraction,
        "the loop's own code": report.other_host_fraction,
    }
    return [
        f"{100 * share:.1f} % idle because of {name}, which is not the input"
        for name, share in named.items()
        if share >= _WORTH_NAMING
    ]


def _remedy(report: Report) -> list[str]:
    """The prediction that promises most, if it promises anything that could be noticed."""
    predicted = [one for one in report.what_if if one.now]
    sure = [one for one in predicted if one.low > one.now]
    if not predicted:
        return []
    if not sure:
        return ["no change that was replayed would make a detectable difference"]
    best = max(sure, key=_promise)
    # Changes that ask for less come behind those that they are a part of.
    as_good = [one for one in sure if one.samples_per_second >= _AS_GOOD * best.samples_per_second]
    best = as_good[-1] if "more" in as_good[-1].change else best
    return [
        f"{best.change}: predicted {best.samples_per_second / best.now:.2f}x "
        f"({best.low / best.now:.2f} to {best.high / best.now:.2f})"
    ]


def _promise(prediction: WhatIf) -> float:
    return prediction.low


def _busiest(report: Report) -> list[str]:
    if not report.stages:
        return []
    stage = max(report.stages, key=lambda stage: stage.busy_fraction)
    percent = 100 * stage.busy_fraction
    return [f"{stage.name} is the busiest stage, its threads work {percent:.0f} % of the time"]
