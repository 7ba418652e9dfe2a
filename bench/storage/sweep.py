"""All jobs of a target within a time budget, over and over, in turns.

Stands between the command and `measure`.  Invariant: each job that was asked for ends as rows or as
a reason why there are none.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from iopipe.bench.storage.backends import open_for
from iopipe.bench.storage.check import verifier_for
from iopipe.bench.storage.jobs import Job, Skipped, in_binary
from iopipe.bench.storage.lanes import cuda_torch
from iopipe.bench.storage.measure import measure
from iopipe.bench.storage.page_cache import prepare
from iopipe.bench.storage.rows import Row
from iopipe.bench.storage.targets import Target
from iopipe.errors import MissingDependency, PipelineError, StorageError

MIN_SECONDS = 0.05
_ONE_READ = 1 << 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How long, how often."""

    seconds: float = 1.0
    """Of each run, at most."""
    repeats: int = 3
    budget_seconds: float = 120.0
    """For the whole sweep; runs get shorter, then fewer."""
    verifies: bool = False

    def __post_init__(self) -> None:
        if not self.seconds > 0 or not self.budget_seconds > 0 or self.repeats < 1:
            raise PipelineError(
                f"seconds={self.seconds:g}, budget={self.budget_seconds:g} must be more than 0, "
                f"repeats={self.repeats} 1 or more"
            )


@dataclass(slots=True)
class Findings:
    rows: list[Row] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)

    def skip(self, target: Target, what: object, reason: object) -> None:
        found = Skipped(what=f"{target.name.partition('?')[0]}: {what}", reason=str(reason))
        if found not in self.skipped:
            self.skipped.append(found)


def sweep(
    target: Target,
    jobs: Sequence[Job],
    effort: Effort,
    *,
    findings: Findings,
    on_row: Callable[[Row], None],
) -> None:
    """Measure `jobs` in turns, all of them `effort.repeats` times, into `findings`."""
    end = time.monotonic() + effort.budget_seconds
    left = [_verifiable(job) for job in jobs] if effort.verifies else list(jobs)
    left = _possible(target, dict.fromkeys(left), findings)
    for repeat in range(effort.repeats):
        for number, job in enumerate(left):
            num_left = len(left) * (effort.repeats - repeat) - number
            time_left = end - time.monotonic()
            if time_left < MIN_SECONDS:
                findings.skip(target, *_out_of_time(left[number:], repeat, effort))
                return
            # Half of it: dropping and filling the page cache takes time as well.
            seconds = max(MIN_SECONDS, min(effort.seconds, time_left / (2 * num_left)))
            reason = prepare(target.paths, job.cache) if target.is_local else None
            if reason is not None:
                findings.skip(target, job, reason)
                continue
            try:
                row = _run(target, job, seconds=seconds, repeat=repeat, verifies=effort.verifies)
            except (OSError, MissingDependency) as error:  # the other jobs' rows are worth having
                findings.skip(target, job, error)
                continue
            findings.rows.append(row)
            on_row(row)


def _run(target: Target, job: Job, *, seconds: float, repeat: int, verifies: bool) -> Row:
    verifier = verifier_for(target) if verifies else None
    store = open_for(job, target)
    try:
        return measure(store, job, target, seconds=seconds, repeat=repeat, verifier=verifier)
    finally:
        store.close()


def _verifiable(job: Job) -> Job:
    """Reads that share a buffer cannot be looked at afterwards."""
    return job if job.fans_out else replace(job, batch=1)


def _out_of_time(left: Sequence[Job], repeat: int, effort: Effort) -> tuple[str, str]:
    shown = ", ".join(str(job) for job in left[:3]) + (", ..." if len(left) > 3 else "")
    return (
        f"{len(left)} jobs of round {repeat + 1} and all later rounds ({shown})",
        f"the budget of {effort.budget_seconds:g} s is used up; give a larger --budget",
    )


# ---- what this machine cannot do -----------------------------------------------------


def _possible(target: Target, jobs: Iterable[Job], findings: Findings) -> list[Job]:
    """Those whose path is there; of the others the reason is noted, once."""
    known: dict[str, str | None] = {}
    return [job for job in jobs if not _is_refused(target, job, known, findings)]


def _is_refused(target: Target, job: Job, known: dict[str, str | None], findings: Findings) -> bool:
    """`known`: what was found out before, by what it was asked of."""
    for what, ask in (
        (f"destination {job.destination}", _no_destination),
        (f"page cache {job.cache}", _no_cache),
        (f"backend {job.backend}{' with O_DIRECT' if job.direct else ''}", _no_path),
        (f"blocks of {in_binary(job.block_bytes)}", _no_block),
    ):
        if what not in known:
            known[what] = ask(target, job)
        reason = known[what]
        if reason is not None:
            findings.skip(target, what, reason)
            return True
    return False


def _no_destination(target: Target, job: Job) -> str | None:
    if job.destination == "host":
        return None
    try:
        cuda_torch()
    except MissingDependency as error:
        return str(error)
    return None


def _no_cache(target: Target, job: Job) -> str | None:
    if job.cache == "cold" and target.in_memory:
        return f"files of a {target.filesystem} lie in memory, never on a device"
    return prepare(target.paths, job.cache) if target.is_local else None


def _no_block(target: Target, job: Job) -> str | None:
    largest = max(size for _, size in target.files)
    return None if largest >= job.block_bytes else f"the largest file has {largest} bytes"


def _no_path(target: Target, job: Job) -> str | None:
    """One small read shows what opening does not."""
    path, size = target.files[0]
    try:
        store = open_for(job, target)
        try:
            store.read_into(path, 0, memoryview(bytearray(min(size, _ONE_READ))))
        finally:
            store.close()
    except (StorageError, MissingDependency) as error:
        return str(error)
    return None
