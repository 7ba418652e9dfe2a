"""The measurement of one process: which loader, which clock, and where the result goes.

Stands between torch's hooks and the meter.  Invariant: one meter a loader; the loader whose
loop took longest is the one that is reported.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from iopipe.meter.cores import usable_cores
from iopipe.meter.events import CudaEvents, HostEvents
from iopipe.meter.history import History
from iopipe.meter.loader_model import model_of_workers
from iopipe.meter.meter import Meter, num_samples_of
from iopipe.meter.report import Report, StageReport
from iopipe.meter.spans import Span
from iopipe.meter.what_if import Limits
from iopipe.profile.fetches import TimedBatch, unwrapped
from iopipe.protocols import Events

MAX_STEPS = 100_000


@dataclass(slots=True, eq=False)
class Watched:
    """One loader and what is known of its iterations."""

    meter: Meter
    history: History
    num_workers: int
    prefetch_factor: int
    num_steps: int = 0
    worker_cpu_ns: int = 0
    worker_busy_ns: int = 0
    num_iterations: int = 0
    is_over: bool = False


@dataclass(slots=True)
class Session:
    """What this process measures; `events` chooses the clock when the first batch is asked."""

    folder: Path
    max_steps: int | None
    events: Callable[[], Events]
    loaders: weakref.WeakKeyDictionary[Any, Watched] = field(
        default_factory=weakref.WeakKeyDictionary
    )
    kept: list[Watched] = field(default_factory=list)
    """Those that still exist, and the one whose loop took longest."""
    current: Meter | None = None
    """Of the loader that handed over the latest batch: marks are made there."""
    is_written: bool = False
    thread: int = field(default_factory=threading.get_ident)
    """The one that trains."""

    def begins(self, loader: Any) -> Watched:
        """`loader` is iterated; an earlier iteration of it that was left is over."""
        watched = self.loaders.get(loader)
        if watched is None:
            history = History()
            meter = Meter(self.events(), max_steps=MAX_STEPS, history=history)
            watched = Watched(meter, history, loader.num_workers, loader.prefetch_factor or 2)
            self._forget_short_ones()
            self.loaders[loader] = watched
            self.kept.append(watched)
        elif not watched.is_over:
            watched.meter.finish()
        watched.num_iterations += 1
        return watched

    def ends_with(self, iterator: Any, watched: Watched) -> None:
        """A loop that is left early drops its iterator: what comes then is no step of it."""
        number = watched.num_iterations

        def left() -> None:
            if watched.num_iterations == number and threading.get_ident() == self.thread:
                watched.meter.leave()

        weakref.finalize(iterator, left).atexit = False

    def next_batch(self, watched: Watched, get: Callable[[], Any]) -> Any:
        """What `get` gives, measured while there are steps left to measure."""
        if watched.is_over:
            return unwrapped(get())
        watched.meter.enter()
        # Waiting takes no processor time; without workers the batch itself is made here.
        worked_ns = time.thread_time_ns() if watched.num_workers else 0
        try:
            item = get()
        except StopIteration:
            watched.meter.finish()
            raise
        spans: tuple[Span, ...] = ()
        if isinstance(item, TimedBatch):
            item, spans = self._opened(watched, item)
        take_ns = time.thread_time_ns() - worked_ns if watched.num_workers else 0
        watched.meter.handoff(spans=spans, num_samples=num_samples_of(item), take_ns=take_ns)
        self.current = watched.meter
        watched.num_steps += 1
        if watched.num_steps == self.max_steps:
            self._ends(watched)
        return item

    def mark_step(self) -> None:
        if self.current is not None:
            self.current.step()

    def mark_move(self) -> None:
        if self.current is not None:
            self.current.moved()

    def mark_begin(self) -> None:
        if self.current is not None:
            self.current.begin()

    def write(self) -> None:
        """Leave what was measured in the folder; once, and nothing where nothing was."""
        main = max(self.kept, key=_wall_ns, default=None)
        if self.is_written or main is None or not main.num_steps:
            return
        self.is_written = True
        main.meter.finish()
        report = report_of(main)
        content = {
            "rank": _rank(),
            "report": report.to_json(),
            "steps": main.history.timeline().to_json(),
            "stalls_ns": [step.stall_ns for step in report.steps],
            "text": str(report),
        }
        target = self.folder / f"measured-{os.getpid()}.json"
        temporary = target.with_suffix(".tmp")
        temporary.write_text(json.dumps(content))
        os.replace(temporary, target)

    def _forget_short_ones(self) -> None:
        """Some scripts make a loader an epoch."""
        alive = list(self.loaders.values())
        best = max(self.kept, key=_wall_ns, default=None)
        self.kept = [one for one in self.kept if one is best or one in alive]

    def _opened(self, watched: Watched, item: TimedBatch) -> tuple[Any, tuple[Span, ...]]:
        watched.worker_cpu_ns += item.cpu_ns if watched.num_workers else 0
        watched.worker_busy_ns += item.moments[3] - item.moments[0]
        return item.batch, item.spans()

    def _ends(self, watched: Watched) -> None:
        watched.is_over = True
        self.current = None
        self.write()


def report_of(watched: Watched) -> Report:
    """With predictions, and the environment."""
    cpu = watched.meter.report()
    taken = cpu.cpu_seconds + watched.worker_cpu_ns / 1e9
    limits = Limits(
        cores=usable_cores(),
        cpu_seconds_per_sample=taken / cpu.num_samples if cpu.num_samples else 0.0,
    )
    model = model_of_workers(watched.num_workers, watched.prefetch_factor)
    stages = _stages(watched, cpu.wall_seconds)
    report = watched.meter.report(stages=stages, model=model, limits=limits)
    return replace(report, environment=_environment(watched))


def _stages(watched: Watched, seconds: float) -> tuple[StageReport, ...]:
    """torch's workers are one stage; without any the loop's own thread is."""
    if not watched.worker_busy_ns:
        return ()
    threads = max(1, watched.num_workers)
    busy_seconds = watched.worker_busy_ns / 1e9
    return (
        StageReport(
            name="worker",
            cause="decode",
            concurrency=threads,
            num_items=watched.num_steps,
            busy_seconds=busy_seconds,
            busy_fraction=min(1.0, busy_seconds / (threads * seconds)) if seconds else 0.0,
        ),
    )


def _wall_ns(watched: Watched) -> int:
    return watched.meter.totals().wall_ns


def clock_of_training() -> Events:
    """CUDA's where the process has begun to use it, else the host's."""
    torch = sys.modules["torch"]
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return CudaEvents("cuda")
    return HostEvents()


def _environment(watched: Watched) -> dict[str, str]:
    torch = sys.modules["torch"]
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "cores": f"{usable_cores():g}",
        "workers": str(watched.num_workers),
        "prefetch factor": str(watched.prefetch_factor),
        "threads of torch": str(torch.get_num_threads()),
    }


def _rank() -> int:
    """Of a launcher that sets RANK, as torchrun does; 0 without one."""
    text = os.environ.get("RANK", "")
    return int(text) if text.isascii() and text.isdigit() else 0


def merged(measured: Sequence[dict[str, Any]]) -> list[list[int]]:
    """The stalls of all ranks over the steps that are known of all of them: each knows its last
    ones, and one may have made more steps than another."""
    ends = [int(one["report"]["num_steps"]) for one in measured]
    stalls = [one["stalls_ns"] for one in measured]
    starts = [end - len(part) for end, part in zip(ends, stalls, strict=True)]
    first = max(starts)
    last = max(first, min(ends))
    return [part[first - start : last - start] for start, part in zip(starts, stalls, strict=True)]
