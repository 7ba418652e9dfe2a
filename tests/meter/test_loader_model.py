"""The loader's model, against threads and queues that are simulated event by event."""

from __future__ import annotations

import heapq
import itertools
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iopipe.meter.loader_model import (
    LoaderModel,
    Production,
    StageModel,
    model_of_run,
    model_of_workers,
)
from iopipe.meter.report import EdgeReport, StageReport


@st.composite
def chains(draw: st.DrawFn) -> tuple[LoaderModel, list[list[int]], list[int]]:
    num_batches = draw(st.integers(1, 25))
    times = st.lists(st.integers(0, 40), min_size=num_batches, max_size=num_batches)
    stages = [
        StageModel(name=str(place), threads=threads, room=draw(st.integers(threads, 8)))
        for place, threads in enumerate(draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
    ]
    services = [draw(times) for _ in stages]
    return LoaderModel(stages=tuple(stages)), services, draw(times)


@given(chains())
def test_a_chain_is_what_its_threads_and_edges_do(
    chain: tuple[LoaderModel, list[list[int]], list[int]],
) -> None:
    model, services, pauses = chain
    production = Production(model, services)
    ask, taken = 0, []
    for number, pause in enumerate(pauses):
        taken.append(production.ready(number, ask))
        ask = taken[-1] + pause
    assert taken == _simulated(model, services, pauses)


class _Stage:
    """Threads that take the next item in order, work, and wait at the edge behind."""

    def __init__(self, model: StageModel) -> None:
        self.idle = model.threads
        self.room = model.room or 0
        self.finished: set[int] = set()  # worked on, held at the edge
        self.edge: set[int] = set()
        self.num_out = 0


def _simulated(model: LoaderModel, services: list[list[int]], pauses: list[int]) -> list[int]:
    """Discrete events: whoever can move moves, then the clock goes to the next event."""
    stages = [_Stage(stage) for stage in model.stages]
    waiting = deque(range(len(pauses)))
    events: list[tuple[int, int, int, int]] = []
    order = itertools.count()
    asks_at, taken = 0, []

    def pull(place: int) -> int | None:
        """The next item in order from the edge in front of a stage, or of the consumer."""
        if place == 0:
            return waiting.popleft() if waiting else None
        before = stages[place - 1]
        if before.num_out not in before.edge:
            return None
        before.edge.remove(before.num_out)
        before.num_out += 1
        return before.num_out - 1

    def settle(now: int) -> None:
        nonlocal asks_at
        moved = True
        while moved:
            moved = False
            for place, stage in enumerate(stages):
                for item in sorted(stage.finished):
                    if item < stage.num_out + stage.room:
                        stage.finished.remove(item)
                        stage.edge.add(item)
                        stage.idle += 1
                        moved = True
                while stage.idle and (item := pull(place)) is not None:
                    stage.idle -= 1
                    end = now + services[place][item]
                    heapq.heappush(events, (end, next(order), place, item))
                    moved = True
            if now >= asks_at and len(taken) < len(pauses) and pull(len(stages)) is not None:
                asks_at = now + pauses[len(taken)]
                taken.append(now)
                heapq.heappush(events, (asks_at, next(order), -1, 0))
                moved = True

    settle(0)
    while events:
        now = events[0][0]
        while events and events[0][0] == now:
            _, _, place, item = heapq.heappop(events)
            if place >= 0:
                stages[place].finished.add(item)
        settle(now)
    return taken


@given(
    num_workers=st.integers(1, 4),
    prefetch=st.integers(1, 3),
    services=st.lists(st.integers(0, 40), min_size=1, max_size=30),
    pause=st.integers(0, 30),
)
def test_torchs_workers_take_turns_and_keep_a_window(
    num_workers: int, prefetch: int, services: list[int], pause: int
) -> None:
    production = Production(model_of_workers(num_workers, prefetch), [services])
    free, taken, ask = [0] * num_workers, [], 0
    for number, service in enumerate(services):
        begun = taken[number - num_workers * prefetch] if number >= num_workers * prefetch else 0
        worker = number % num_workers
        free[worker] = max(free[worker], begun) + service
        taken.append(max(ask, free[worker]))
        assert production.ready(number, ask) == taken[-1]
        ask = taken[-1] + pause


def test_without_workers_a_batch_is_made_when_it_is_asked_for() -> None:
    production = Production(model_of_workers(0, 2), [[5, 5, 5]])
    assert [production.ready(number, 100 * number) for number in range(3)] == [5, 105, 205]
    with pytest.raises(ValueError, match="batch 7 is asked for after 3 others"):
        production.ready(7, 0)


def test_travel_is_added_to_what_is_waited_for_only() -> None:
    production = Production(model_of_workers(1, 4), [[10, 10]], travel_ns=3)
    assert production.ready(0, 0) == 13
    assert production.ready(1, 100) == 100


def test_the_model_of_a_run_counts_the_parts_of_a_batch() -> None:
    def stage(name: str, concurrency: int, num_items: int) -> StageReport:
        return StageReport(
            name=name, cause="decode", concurrency=concurrency, num_items=num_items,
            busy_seconds=1, busy_fraction=0.5,
        )  # fmt: skip

    def edge(name: str, capacity: int) -> EdgeReport:
        return EdgeReport(
            name=name, capacity=capacity, num_items=8, put_wait_seconds=0, get_wait_seconds=0,
            mean_occupancy=0,
        )  # fmt: skip

    model = model_of_run(
        (stage("read", 2, 40), stage("collate", 1, 10)), (edge("read", 6), edge("collate", 2))
    )
    assert [(one.name, one.threads, one.chunks, one.room) for one in model.stages] == [
        ("read", 2, 4, 6),
        ("collate", 1, 1, 2),
    ]
    # Two threads on the four parts of one batch: it takes half as long.
    first = Production(LoaderModel(stages=model.stages[:1]), [[100] * 3])
    assert [first.ready(number, 0) for number in range(3)] == [50, 100, 150]
