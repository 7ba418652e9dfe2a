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
from typing import TypeAlias

import numpy as np

from iopipe.crew import Crew
from iopipe.edge import Edge
from iopipe.faults import Faults
from iopipe.gate import Gate
from iopipe.meter.report import EdgeReport, StageReport
from iopipe.meter.spans import Span
from iopipe.meter.stage_clock import StageClock
from iopipe.plan import Task
from iopipe.protocols import Allocate, Batch, Int64Array, Samples
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
    """An error in the place of the item that it struck: whatever ends a function, be it
    SystemExit or the panic of a library, since a thread that dies silently is waited for."""

    error: BaseException
    number: int


Item: TypeAlias = Chunk | Parcel | Failure

IsSurplus: TypeAlias = Callable[[], bool]
"""See `Crew.is_surplus`."""


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
        is_watched: bool = False,
    ) -> None:
        """`pads`: samples may be there to fill up a batch only, and say whether they are.
        `window`: None where items come in the order of the plan; else they come as they are
        ready, from among so many batches.  `is_watched`: see `StageClock`."""
        self._is_watched = is_watched
        self._tasks = tasks
        self._pads = pads
        self._num_batches = 0
        self._is_in_batch = False
        """Whether tasks of the last batch are to come."""
        self._gate = None if window is None else Gate(window)
        self._tasks_lock = threading.Lock()
        self._num_tasks = 0
        self._seed = seed
        self._delivery = delivery if _fills_slots(stages) else None
        self._faults = faults
        self._clocks: list[StageClock] = []
        self._edges: list[Edge[Item]] = []
        self._crews: list[Crew] = []
        self.stages: list[Stage] = []
        """In their order, the collation among them."""
        self._buffers: list[int] = []
        self._build(stages, delivery)
        self._started_ns = time.perf_counter_ns()

    def start(self) -> None:
        self._started_ns = time.perf_counter_ns()
        for crew in self._crews:
            crew.start()

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
        for crew in self._crews:
            crew.join()

    def resize(self, number: int, *, threads: int | None = None, buffer: int | None = None) -> None:
        """Give stage `number` so many threads, and let so many items wait behind it, from now on.
        Order and results stay what they are.  Not for the collation, which has one thread."""
        crew = self._crews[number]
        if threads is not None:
            self._clocks[number].resize(threads, self._wall_seconds())
            crew.resize(threads)
        if buffer is not None:
            self._buffers[number] = buffer
        self._edges[number].resize(self._buffers[number] + crew.size)

    def stage_times(self) -> tuple[tuple[float, float], ...]:
        """Of each stage, see `StageClock.times`."""
        return tuple(clock.times() for clock in self._clocks)

    def stage_reports(self) -> tuple[StageReport, ...]:
        wall_seconds = self._wall_seconds()
        return tuple(clock.report(wall_seconds) for clock in self._clocks)

    def _wall_seconds(self) -> float:
        return (time.perf_counter_ns() - self._started_ns) / 1e9

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
        clock = StageClock(stage.name, stage.cause, stage.concurrency, is_watched=self._is_watched)
        source = self._edges[-1] if self._edges else None
        # Room for what each thread holds besides the buffer, so that a thread that is
        # done can go on while an earlier item is still worked on.
        target: Edge[Item] = Edge(
            stage.name, stage.buffer + stage.concurrency, in_order=self._gate is None
        )
        self._clocks.append(clock)
        self._edges.append(target)
        self.stages.append(stage)
        self._buffers.append(stage.buffer)
        crew = Crew(
            stage.name,
            lambda: loop(stage, clock, source, target, crew.is_surplus),
            size=stage.concurrency,
        )
        self._crews.append(crew)

    # ---- what the threads do ---------------------------------------------------------

    def _read(
        self, stage: Stage, clock: StageClock, _: None, target: Edge[Item], is_surplus: IsSurplus
    ) -> None:
        while not is_surplus():
            with self._tasks_lock:
                sequence, task = self._num_tasks, self._next_task()
                number = self._num_batches - 1
            if task is None:
                target.end(sequence)
                return
            if self._gate is not None:
                self._gate.enter(number)
            target.put(sequence, self._begun(stage, clock, number, task))

    def _next_task(self) -> Task | Failure | None:
        """None at the end; an error of the plan comes in the place of a task, as the last one."""
        try:
            task = next(self._tasks, None)
        except Exception as error:
            error.add_note("in the plan of the run")
            self._num_batches += not self._is_in_batch
            self._num_tasks += 1
            return Failure(error, self._num_batches - 1)
        if task is not None:
            self._num_batches += task.row == 0
            self._is_in_batch = not task.ends_batch
            self._num_tasks += 1
        return task

    def _begun(self, stage: Stage, clock: StageClock, number: int, task: Task | Failure) -> Item:
        if isinstance(task, Failure):
            return task
        try:
            chunk = Chunk(task, number, self._wanted(task))
        except Exception as error:
            return Failure(error, number)
        return self._applied(stage, clock, chunk)

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
        self,
        stage: Stage,
        clock: StageClock,
        source: Edge[Item],
        target: Edge[Item],
        is_surplus: IsSurplus,
    ) -> None:
        for sequence, item in _drain(source, target, is_surplus):
            if isinstance(item, Chunk):
                item = self._applied(stage, clock, item)
            target.put(sequence, item)

    def _applied(self, stage: Stage, clock: StageClock, chunk: Chunk) -> Item:
        try:
            chunk.samples = clock.time(
                lambda: self._faults.apply(stage.name, stage.function, chunk.samples),
                chunk.spans,
            )
        except BaseException as error:
            return Failure(error, chunk.number)
        if chunk.samples.history:
            chunk.spans[-1:] = [Span(*part) for part in chunk.samples.history]
        return chunk

    def _collate(
        self,
        stage: Stage,
        clock: StageClock,
        source: Edge[Item],
        target: Edge[Item],
        _: IsSurplus,
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
        self,
        stage: Stage,
        clock: StageClock,
        source: Edge[Item],
        target: Edge[Item],
        is_surplus: IsSurplus,
    ) -> None:
        for sequence, item in _drain(source, target, is_surplus):
            if isinstance(item, Parcel):
                item = _worked_on(stage, clock, item)
            target.put(sequence, item)


def _fills_slots(stages: Sequence[Stage]) -> bool:
    """Whether what is made of samples goes straight to the collation.  A user's function in
    between may keep what it was given, so it must not be given memory that is used again."""
    of_samples = [stage for stage in stages if stage.takes == "samples"]
    return of_samples[-1].fills


def _drain(
    source: Edge[Item], target: Edge[Item], is_surplus: IsSurplus
) -> Iterator[tuple[int, Item]]:
    """Items of `source` until this thread is one too many; at their end `target` is told how
    many there were."""
    while not is_surplus():
        if (entry := source.get()) is None:
            target.end(source.num_items)
            return
        yield entry


def _is_whole(chunks: list[Chunk]) -> bool:
    return sum(len(chunk.task.ids) for chunk in chunks) == chunks[0].task.num_batch_rows


def _collated(stage: Stage, clock: StageClock, chunks: list[Chunk]) -> Item:
    spans = _story(chunks)
    chunks = sorted(chunks, key=lambda chunk: chunk.task.row)
    number = chunks[0].number
    try:
        samples = [chunk.samples for chunk in chunks]
        batch = clock.time(lambda: stage.function(chunks[0].task.batch, samples), spans)
    except BaseException as error:
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
    except BaseException as error:
        keys = parcel.batch.columns.get("__key__", ())  # a user's function may have dropped them
        named = f", batch of keys {keys[0]!r} to {keys[-1]!r}" if len(keys) else ""
        error.add_note(f"in stage {stage.name!r}{named}")
        return Failure(error, parcel.number)
    return parcel
