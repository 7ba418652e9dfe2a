"""A stretch of training on one feed, timed: the piece that comparisons are made of.

Stands between the feeds and the comparisons.  Invariant: a feed is started afresh and trained on
at once, so that what lies ready when the clock starts is what lies ready in the steady state: an
iterator that could fill its queues while another one trained would win their length.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import iopipe
from iopipe.bench.feeds import Batch, Feed, Job
from iopipe.bench.measure import family_cpu_seconds
from iopipe.bench.networks import Training
from iopipe.meter.watched import events_of
from iopipe.topology import Binding, Topology, bound, read_topology


@dataclass(frozen=True, slots=True, kw_only=True)
class Length:
    """How long a window is, after a warm-up of `warmup` steps."""

    warmup: int = 12
    seconds: float = 0.0
    """At least so long."""
    steps: int = 1
    """At least so many: alike on all ranks where `seconds` is 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """What one stretch was like."""

    images_per_second: float
    steps: int
    seconds: float
    cpu_seconds_per_1000: float
    """Of this process and of all that it started, per thousand images."""
    trainer_cpu_seconds_per_1000: float
    """Of this process alone: training and feeding."""
    starved_fraction: float
    """Of the time: the compute stream stood idle for want of a batch, as the meter has it."""
    first_batch_seconds: float
    loss: float

    def numbers(self) -> dict[str, float]:
        return asdict(self)


def run_window(
    feed: Feed,
    job: Job,
    training: Training,
    length: Length,
    *,
    around: Callable[[Iterator[Batch]], Iterator[Batch]] | None = None,
    meter: iopipe.Meter | None = None,
) -> Window:
    """Start the feed, train on it, end it.  `around` changes what comes out of it; `meter` is
    one that measures the window beside other things, too."""
    start = time.perf_counter()
    with feed(job) as endless:
        batches = endless if around is None else around(endless)
        first = next(batches)
        first_batch_seconds = time.perf_counter() - start
        training.step(*first)
        del first
        for _ in range(length.warmup):
            training.step(*next(batches))
        training.synchronize()
        return _timed(batches, training, length, first_batch_seconds, meter or meter_of(job))


def meter_of(job: Job, **options: Any) -> iopipe.Meter:
    """On the clock of the job's device."""
    return iopipe.Meter(events_of(job.device), **options)


def _timed(
    batches: Iterator[Batch],
    training: Training,
    length: Length,
    first_batch_seconds: float,
    meter: iopipe.Meter,
) -> Window:
    all_cpu, own_cpu = family_cpu_seconds(os.getpid()), time.process_time()
    steps = images = 0
    start = time.perf_counter()
    watched = meter.watch(batches)
    for pixels, labels in watched:
        training.step(pixels, labels)
        meter.step()
        steps, images = steps + 1, images + len(labels)
        if steps >= length.steps and time.perf_counter() - start >= length.seconds:
            break
    training.synchronize()
    seconds = time.perf_counter() - start
    all_cpu, own_cpu = family_cpu_seconds(os.getpid()) - all_cpu, time.process_time() - own_cpu
    watched.close()  # type: ignore[attr-defined]
    training.synchronize()
    if not math.isfinite(loss := training.loss):
        raise RuntimeError(f"the loss is {loss}: this was no training")
    return Window(
        images_per_second=images / seconds,
        steps=steps,
        seconds=seconds,
        cpu_seconds_per_1000=1000 * all_cpu / images,
        trainer_cpu_seconds_per_1000=1000 * own_cpu / images,
        starved_fraction=meter.report().attributed_stall_fraction,
        first_batch_seconds=first_batch_seconds,
        loss=loss,
    )


# ---- cores ---------------------------------------------------------------------------


def first_cores(number: int, topology: Topology | None = None) -> tuple[int, ...]:
    """CPUs of so many cores, one each; the siblings of the first where there are fewer cores."""
    topology = topology or read_topology()
    allowed = set(topology.limits.cpus)
    cores = [[cpu for cpu in core if cpu in allowed] for core in topology.cores]
    depth = max(map(len, cores), default=0)
    cpus = [core[level] for level in range(depth) for core in cores if level < len(core)]
    return tuple(cpus[:number])


@contextlib.contextmanager
def on_cpus(cpus: Sequence[int]) -> Iterator[None]:
    """All threads of this process, and what they start, on these CPUs alone; undone at the end."""
    binding = Binding(node=None, memory_node=None, cpus=tuple(cpus), worker_cpus=(), reasons=())
    with bound(binding) as applied:
        if applied.cpus != tuple(sorted(cpus)):
            raise iopipe.PipelineError(f"asked for CPUs {list(cpus)}: {applied.problems}")
        yield
