"""Threads and edges: runs a plan through the stages of a pipeline.

Stands between the frozen specs and the run that a user iterates over.  Invariant: results
come out in the order of the plan, a failure as well: the consumer gets every batch before it,
then the error.  Where batches may overtake each other, both come as they are ready.  The
engine knows readers and loaders through callables only.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from iopipe.edge import Closed, Edge
from iopipe.faults import Faults
from iopipe.gate import Gate
from iopipe.meter.report import EdgeReport, StageReport
from iopipe.meter.spans import Span
from iopipe.plan import Task
from iopipe.protocols import Allocate, Batch, Cause, Int64Array, Samples
from iopipe.stages import Delivery, Stage


@dataclass(slots=True)
class Chunk:
    """Samples on their way, with the task they belong to and what was done so far."""

    task: Task
    number: int
    """Of the batch that it will be part of, counted over the run."""
    samples: Samples
    spans: list[Span] = field(default_factory=list)


@dataclass(slots=True)
class Parcel:
    """A batch on its way; `spans` tell the story of its chunks, as `attribute` wants it."""

    task: Task
    """The last of its chunks' tasks."""
    number: int
    batch: Batch
    planned: Int64Array
    """Ids of the samples that were to be in it, less those that only fill it up."""
    spans: list[Span] = field(default_factory=list)


@dataclass(slots=True)
class Failure:
    """An error in the place of the item that it struck."""

    error: Exception
    number: int


Item: TypeAlias = Chunk | Parcel | Failure


class StageClock:
    """How long the threads of one stage worked; thread-safe."""

    def __init__(self, name: str, cause: Cause, concurrency: int) -> None:
        self._name = name
        self._cause = cause
        self._concurrency = concurrency
        self._lock = threading.Lock()
        self._num_items = 0
        self._busy_ns = 0

    def time(self, work: Callable[[], Any], spans: list[Span]) -> Any:
        start_ns = time.perf_counter_ns()
        result = work()
        end_ns = time.perf_counter_ns()
        spans.append(Span(self._name, self._cause, start_ns, end_ns))
        with self._lock:
            self._num_items += 1
            self._busy_ns += end_ns - start_ns
        return result

    def report(self, wall_seconds: float) -> StageReport:
        with self._lock:
            busy_seconds = self._busy_ns / 1e9
            num_items = self._num_items
        capacity = self._concurrency * wall_seconds
        return StageReport(
            name=self._name,
            cause=self._cause,
            concurrency=self._concurrency,
            num_items=num_items,
            busy_seconds=busy_seconds,
            busy_fraction=busy_seconds / capacity if capacity else 0.0,
        )


class Engine:
    """One pass over a plan.  `start`, then `get` until it returns None, then `close`."""

    def __init__(
        self,
        tasks: Iterator[Task],
        stages: Sequence[Stage],
        *,
        seed: int,
        pads: bool,
        window: int | None,
        faults: Faults,
        delivery: Delivery | None,
    ) -> None:
        """`pads`: samples may be there to fill up a batch only, and say whether they are.
        `window`: None where items come in the order of the plan; else they come as they are
        ready, from among so many batches."""
        self._tasks = enumerate(tasks)
        self._pads = pads
        self._num_batches = 0
        self._gate = None if window is None else Gate(window)
        self._tasks_lock = threading.Lock()
        self._num_tasks = 0
        self._seed = seed
        self._delivery = delivery if _fills_slots(stages) else None
        self._faults = faults
        self._clocks: list[StageClock] = []
        self._edges: list[Edge[Item]] = []
        self._threads: list[threading.Thread] = []
        self._build(stages, delivery)
        self._started_ns = time.perf_counter_ns()

    def start(self) -> None:
        self._started_ns = time.perf_counter_ns()
        for thread in self._threads:
            thread.start()

    def get(self) -> Item | None:
        """The next item, blocking; None at the end of the plan."""
        entry = self._edges[-1].get()
        if entry is None:
            return None
        if self._gate is not None:
            self._gate.leave(entry[1].number)
        return entry[1]

    def close(self) -> None:
        """Stop all threads and wait for them; idempotent, safe from any thread."""
        if self._gate is not None:
            self._gate.close()
        for edge in self._edges:
            edge.close()
        for thread in self._threads:
            if thread.is_alive() and thread is not threading.current_thread():
                thread.join()

    def stage_reports(self) -> tuple[StageReport, ...]:
        wall_seconds = (time.perf_counter_ns() - self._started_ns) / 1e9
        return tuple(clock.report(wall_seconds) for clock in self._clocks)

    def edge_reports(self) -> tuple[EdgeReport, ...]:
        return tuple(edge.stats.snapshot() for edge in self._edges)

    # ---- building --------------------------------------------------------------------

    def _build(self, stages: Sequence[Stage], delivery: Delivery | None) -> None:
        read, *rest = stages
        self._add(read, self._read)
        for stage in itertools.takewhile(lambda stage: stage.takes == "samples", rest):
            self._add(stage, self._work_on_samples)
        if delivery is None:
            return
        collate = Stage(
            name="collate", function=delivery.collate, takes="batch", cause="collate", buffer=1
        )
        self._add(collate, self._collate)
        for stage in itertools.dropwhile(lambda stage: stage.takes == "samples", rest):
            self._add(stage, self._work_on_batch)

    def _add(self, stage: Stage, loop: Callable[..., None]) -> None:
        clock = StageClock(stage.name, stage.cause, stage.concurrency)
        source = self._edges[-1] if self._edges else None
        # Room for what each thread holds besides the buffer, so that a thread that is
        # done can go on while an earlier item is still worked on.
        target: Edge[Item] = Edge(
            stage.name, stage.buffer + stage.concurrency, in_order=self._gate is None
        )
        self._clocks.append(clock)
        self._edges.append(target)
        for number in range(stage.concurrency):
            self._threads.append(
                threading.Thread(
                    target=_until_closed,
                    args=(loop, stage, clock, source, target),
                    name=f"iopipe-{stage.name}-{number}",
                    daemon=True,
                )
            )

    # ---- what the threads do ---------------------------------------------------------

    def _read(self, stage: Stage, clock: StageClock, _: None, target: Edge[Item]) -> None:
        while True:
            with self._tasks_lock:
                entry = next(self._tasks, None)
                self._num_tasks += entry is not None
                self._num_batches += entry is not None and entry[1].row == 0
                number = self._num_batches - 1
            if entry is None:
                target.end(self._num_tasks)
                return
            if self._gate is not None:
                self._gate.enter(number)
            sequence, task = entry
            chunk = Chunk(task, number, self._wanted(task))
            target.put(sequence, self._applied(stage, clock, chunk))

    def _wanted(self, task: Task) -> Samples:
        """The samples of a task before they are read: ids only, less the quarantined."""
        wanted = Samples(
            ids=task.ids,
            keys=[""] * len(task.ids),
            columns={},
            seed=self._seed,
            epoch=task.epoch,
            allocate=self._room(task),
            valid=np.arange(len(task.ids)) < task.num_valid if self._pads else None,
        )
        bad = self._faults.quarantined
        if bad:
            return wanted.take([row for row, one in enumerate(task.ids) if int(one) not in bad])
        return wanted

    def _room(self, task: Task) -> Allocate | None:
        if self._delivery is None:
            return None
        return self._delivery.reserve(task.batch, row=task.row, num_rows=task.num_batch_rows)

    def _work_on_samples(
        self, stage: Stage, clock: StageClock, source: Edge[Item], target: Edge[Item]
    ) -> None:
        for sequence, item in _drain(source, target):
            if isinstance(item, Chunk):
                item = self._applied(stage, clock, item)
            target.put(sequence, item)

    def _applied(self, stage: Stage, clock: StageClock, chunk: Chunk) -> Item:
        try:
            chunk.samples = clock.time(
                lambda: self._faults.apply(stage.name, stage.function, chunk.samples),
                chunk.spans,
            )
        except Exception as error:
            return Failure(error, chunk.number)
        if chunk.samples.history:
            chunk.spans[-1:] = [Span(*part) for part in chunk.samples.history]
        return chunk

    def _collate(
        self, stage: Stage, clock: StageClock, source: Edge[Item], target: Edge[Item]
    ) -> None:
        begun: dict[int, list[Chunk]] = {}
        failed: set[int] = set()
        while (entry := source.get()) is not None:
            item = entry[1]
            if item.number in failed:
                continue
            if isinstance(item, Chunk):
                chunks = begun.setdefault(item.number, [])
                chunks.append(item)
                if not _is_whole(chunks):
                    continue
                item = _collated(stage, clock, begun.pop(item.number))
            else:
                failed.add(item.number)
            target.put(item.number, item)
        target.end(self._num_batches)

    def _work_on_batch(
        self, stage: Stage, clock: StageClock, source: Edge[Item], target: Edge[Item]
    ) -> None:
        for sequence, item in _drain(source, target):
            if isinstance(item, Parcel):
                item = _worked_on(stage, clock, item)
            target.put(sequence, item)


def _fills_slots(stages: Sequence[Stage]) -> bool:
    """Whether what is made of samples goes straight to the collation.  A user's function in
    between may keep what it was given, so it must not be given memory that is used again."""
    of_samples = [stage for stage in stages if stage.takes == "samples"]
    return of_samples[-1].fills


def _until_closed(loop: Callable[..., None], *arguments: Any) -> None:
    try:
        loop(*arguments)
    except Closed:
        return


def _drain(source: Edge[Item], target: Edge[Item]) -> Iterator[tuple[int, Item]]:
    """Every item of `source`; at its end `target` is told how many there were."""
    while (entry := source.get()) is not None:
        yield entry
    target.end(source.num_items)


def _is_whole(chunks: list[Chunk]) -> bool:
    return sum(len(chunk.task.ids) for chunk in chunks) == chunks[0].task.num_batch_rows


def _collated(stage: Stage, clock: StageClock, chunks: list[Chunk]) -> Item:
    spans = _story(chunks)
    chunks = sorted(chunks, key=lambda chunk: chunk.task.row)
    number = chunks[0].number
    try:
        samples = [chunk.samples for chunk in chunks]
        batch = clock.time(lambda: stage.function(chunks[0].task.batch, samples), spans)
    except Exception as error:
        error.add_note(f"in stage {stage.name!r}")
        return Failure(error, number)
    planned = np.concatenate([chunk.task.ids[: chunk.task.num_valid] for chunk in chunks])
    return Parcel(chunks[-1].task, number, batch, planned, spans)


def _story(chunks: list[Chunk]) -> list[Span]:
    """The spans of all chunks, those of the chunk that was done first before the others':
    between two of these ends the batch waited for the later one."""
    in_order = sorted(chunks, key=lambda chunk: chunk.spans[-1].end_ns)
    return [span for chunk in in_order for span in chunk.spans]


def _worked_on(stage: Stage, clock: StageClock, parcel: Parcel) -> Item:
    try:
        parcel.batch = clock.time(lambda: stage.function(parcel.batch), parcel.spans)
    except Exception as error:
        keys = parcel.batch.columns["__key__"]
        error.add_note(f"in stage {stage.name!r}, batch of keys {keys[0]!r} to {keys[-1]!r}")
        return Failure(error, parcel.number)
    return parcel
