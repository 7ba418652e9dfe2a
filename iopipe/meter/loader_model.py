"""When batches would be ready: the loader as a chain of stages with threads and room.

Stands between the recorded spans and the replay.  Invariant: a stage keeps its threads, its
room and the order of its items; a batch is never ready before its last stage is done with it.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from iopipe.meter.recording import RecordedStep
from iopipe.meter.report import EdgeReport, StageReport

Service: TypeAlias = Sequence[int]
"""How long a stage works on each batch, one thread, in nanoseconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageModel:
    """One stage, batch by batch."""

    name: str
    threads: int
    chunks: int = 1
    """Parts of a batch that its threads work on at the same time."""
    room: int | None = None
    """Parts that may wait behind it; it is held back while the one that came so many before
    still waits.  None: any number."""
    in_turn: bool = False
    """Thread n takes every n-th batch, as torch's workers do; else whoever is free."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoaderModel:
    """A chain of stages."""

    stages: tuple[StageModel, ...]
    window: int | None = None
    """A batch is begun when the one that came so many before was handed over; None: any time.
    0: when it is asked for.  torch's loader has workers times prefetch factor."""

    def services(self, steps: Sequence[RecordedStep]) -> list[list[dict[str, int]]]:
        """[stage][batch]: nanoseconds of work for each cause."""
        places = {stage.name: place for place, stage in enumerate(self.stages)}
        found: list[list[dict[str, int]]] = [[{} for _ in steps] for _ in self.stages]
        for number, step in enumerate(steps):
            for span in step.spans:
                if (place := places.get(span.stage)) is not None:
                    parts = found[place][number]
                    parts[span.cause] = parts.get(span.cause, 0) + span.end_ns - span.start_ns
        return found


def model_of_run(stages: Sequence[StageReport], edges: Sequence[EdgeReport]) -> LoaderModel:
    """The stages of an iopipe run, from its report; parts of a batch are counted by items."""
    fewest = min((stage.num_items for stage in stages if stage.num_items), default=1)
    return LoaderModel(
        stages=tuple(
            StageModel(
                name=stage.name,
                threads=stage.concurrency,
                chunks=max(1, round(stage.num_items / fewest)),
                room=edge.capacity,
            )
            for stage, edge in zip(stages, edges, strict=True)
        )
    )


def model_of_workers(num_workers: int, prefetch_factor: int) -> LoaderModel:
    """torch's DataLoader, whose spans are named 'worker'; 0 workers: batches are made in the
    loop, when they are asked for."""
    worker = StageModel(name="worker", threads=max(1, num_workers), in_turn=True)
    return LoaderModel(stages=(worker,), window=num_workers * prefetch_factor)


class Production:
    """One replayed pass of batches through the stages; `ready` must be asked in order."""

    def __init__(
        self,
        model: LoaderModel,
        services: Sequence[Service],
        *,
        travel_ns: int = 0,
        take_ns: int = 0,
    ) -> None:
        """`services`: one a stage of the model, each with one number a batch; `travel_ns`: from
        the last stage to the loop, `take_ns`: what the loop itself has to do."""
        self._take_ns = take_ns
        self._travel_ns = travel_ns
        self._model = model
        self._lines = [_Line(stage, times) for stage, times in zip(
            map(_by_batch, model.stages), services, strict=True
        )]  # fmt: skip
        self._taken: list[int] = []

    def ready(self, number: int, ask: int) -> int:
        """The moment of the hand-off of batch `number`, asked for at `ask`."""
        self._release(number)
        left = 0
        window = self._model.window
        if window == 0:
            left = ask
        elif window is not None and number >= window:
            left = self._taken[number - window]
        for place, line in enumerate(self._lines):
            behind = self._lines[place + 1].starts if place + 1 < len(self._lines) else self._taken
            left = line.work(number, left, behind)
        self._taken.append(max(ask + self._take_ns, left + self._travel_ns))
        return self._taken[-1]

    def _release(self, number: int) -> None:
        if number != len(self._taken):
            raise ValueError(f"batch {number} is asked for after {len(self._taken)} others")


class _Line:
    """The threads of one stage."""

    def __init__(self, stage: StageModel, service: Service) -> None:
        self._stage = stage
        self._service = service
        self._free = [0] * stage.threads
        self.starts: list[int] = []

    def work(self, number: int, arrived: int, behind: Sequence[int]) -> int:
        """When batch `number`, there at `arrived`, leaves; `behind`: when those before it were
        taken by whoever comes next."""
        stage = self._stage
        turn = number % stage.threads
        free = self._free[turn] if stage.in_turn else self._free[0]
        in_order = self.starts[-1] if self.starts and not stage.in_turn else 0
        start = max(arrived, free, in_order)
        left = start + self._service[number] // stage.chunks
        if stage.room is not None and number >= stage.room:
            left = max(left, behind[number - stage.room])
        if stage.in_turn:
            self._free[turn] = left
        else:
            heapq.heapreplace(self._free, left)
        self.starts.append(start)
        return left


def _by_batch(stage: StageModel) -> StageModel:
    """The same stage with whole batches as its items: threads that share one batch make it
    that much shorter."""
    shared = min(stage.threads, stage.chunks)
    room = None if stage.room is None else max(1, round(stage.room / stage.chunks))
    return replace(stage, threads=-(-stage.threads // shared), chunks=shared, room=room)
