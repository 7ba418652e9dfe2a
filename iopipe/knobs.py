"""What a tuner may turn in a running pipeline.

Stands between the tuner and the engine.  Invariant: only the number of threads, the room behind
stages and the size of reads are touched, none of which decides what is delivered.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from iopipe.autotune.setting import Knob, Values
from iopipe.autotune.tuner import Work
from iopipe.engine import Engine
from iopipe.stages import ReadAhead, Stage, Workers

PREFETCH, CHUNK, READ_AHEAD, WORKERS = "prefetch", "chunk_samples", "read_ahead_bytes", "workers"
_MOST_THREADS = 64
_MOST_AHEAD = 64
_MOST_READ_AHEAD_BYTES = 8 << 30
_SPARE_SLOTS = 3
"""Batches besides those ahead: one being written, two with the consumer."""


def threads_of(stage: str) -> str:
    """The knob of a stage's threads."""
    return f"{stage}.threads"


@dataclass(slots=True)
class ChunkSize:
    """How many samples are read and worked on together; asked for every batch."""

    samples: int
    most: int
    """A whole batch."""

    def __call__(self) -> int:
        return self.samples


class PipelineKnobs:
    """Of one run; turned by its consumer."""

    def __init__(
        self,
        engine: Engine,
        *,
        workers: Workers | None,
        ahead: ReadAhead | None,
        chunk: ChunkSize | None,
        sample_bytes: float,
        is_pinned: bool,
    ) -> None:
        """`chunk`: None where samples are not cut anew; `sample_bytes`: of a sample as it is
        stored; `is_pinned`: batches lie in page-locked memory."""
        self._engine = engine
        self._stages = tuple(engine.stages)
        self._workers = workers
        self._ahead = ahead
        self._chunk = chunk
        self._sample_bytes = sample_bytes
        self._is_pinned = is_pinned
        self._batch_bytes = 0
        self._batch_size = 1
        self._places = {
            self._name_of(stage): number
            for number, stage in enumerate(self._stages)
            if stage.scales
        }
        self._values = {name: self._stages[at].concurrency for name, at in self._places.items()}
        self._values[PREFETCH] = self._stages[-1].buffer
        if chunk is not None:
            self._values[CHUNK] = chunk.samples
        if ahead is not None:
            self._values[READ_AHEAD] = ahead.num_bytes

    def saw(self, batch: Mapping[str, Any], num_samples: int) -> None:
        """A batch that was handed over: how large they are."""
        self._batch_bytes = max(
            self._batch_bytes, sum(getattr(one, "nbytes", 0) for one in batch.values())
        )
        self._batch_size = max(self._batch_size, num_samples)

    def all(self) -> tuple[Knob, ...]:
        return tuple(map(self._knob, self._values))

    def values(self) -> dict[str, int]:
        return dict(self._values)

    def turn(self, values: Values) -> None:
        for name, value in values.items():
            if value != self._values[name]:
                self._turn_one(name, value)
                self._values[name] = value

    def needs(self, values: Values) -> Mapping[str, int]:
        slots = self._batch_bytes * (values[PREFETCH] + _SPARE_SLOTS)
        chunk = values.get(CHUNK, self._batch_size)
        decoded = self._batch_bytes / self._batch_size
        held = sum(2 * values[name] + self._stages[at].buffer for name, at in self._places.items())
        read = int(held * chunk * max(self._sample_bytes, decoded))
        needed = {"memory": slots + read + values.get(READ_AHEAD, 0)}
        return {**needed, "locked memory": slots} if self._is_pinned else needed

    def work(self) -> Mapping[str, Work]:
        times = self._engine.stage_times()
        found = {name: Work(*times[at]) for name, at in self._places.items()}
        if self._workers is not None:
            found[WORKERS] = Work(found[WORKERS].busy_seconds, self._workers.cpu_seconds())
        return found

    def core_seconds(self) -> float:
        return time.process_time() + (self._workers.cpu_seconds() if self._workers else 0.0)

    def steps_in_flight(self) -> int:
        return min(self._values[PREFETCH], 4) + 2

    def _name_of(self, stage: Stage) -> str:
        is_pool = self._workers is not None and stage is self._stages[0]
        return WORKERS if is_pool else threads_of(stage.name)

    def _knob(self, name: str) -> Knob:
        if name == PREFETCH:
            return Knob(name=name, kind="depth", most=_MOST_AHEAD)
        if name == CHUNK:
            return Knob(name=name, kind="read_size", most=self._chunk.most if self._chunk else 1)
        if name == READ_AHEAD:
            return Knob(name=name, kind="read_size", most=_MOST_READ_AHEAD_BYTES, least=3 << 20)
        if name == WORKERS:
            return Knob(name=name, kind="processes", most=2 * (os.cpu_count() or 1))
        return Knob(name=name, kind="threads", most=_MOST_THREADS)

    def _turn_one(self, name: str, value: int) -> None:
        if name == PREFETCH:
            self._engine.resize(len(self._stages) - 1, buffer=value)
        elif name == CHUNK:
            assert self._chunk is not None
            self._chunk.samples = value
        elif name == READ_AHEAD:
            assert self._ahead is not None
            self._ahead.resize(value)
        elif name == WORKERS:
            self._turn_workers(value)
        else:
            self._engine.resize(self._places[name], threads=value)

    def _turn_workers(self, value: int) -> None:
        """There are never more threads that wait for workers than there are workers."""
        assert self._workers is not None
        if value > self._values[WORKERS]:
            self._workers.resize(value)
            self._engine.resize(self._places[WORKERS], threads=value, buffer=value)
        else:
            self._engine.resize(self._places[WORKERS], threads=value, buffer=value)
            self._workers.resize(value)
