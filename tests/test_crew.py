"""Crews: threads come and go between two items, and none is left."""

from __future__ import annotations

import threading

import pytest

from iopipe.crew import Crew
from iopipe.edge import Closed, Edge


class Line:
    """An edge, and a crew that takes items from it until it is closed."""

    def __init__(self, size: int) -> None:
        self.edge: Edge[int] = Edge("line", 1000)
        self.seen: list[int] = []
        self.num_done = threading.Semaphore(0)
        self.crew = Crew("line", self._work, size=size)

    def _work(self) -> None:
        while not self.crew.is_surplus():
            entry = self.edge.get()
            if entry is None:
                return
            self.seen.append(entry[1])
            self.num_done.release()

    def put(self, first: int, last: int) -> None:
        for number in range(first, last):
            self.edge.put(number, number)
        for _ in range(first, last):
            self.num_done.acquire()

    def num_threads(self) -> int:
        return sum(one.name.startswith("iopipe-line-") for one in threading.enumerate())


def test_threads_are_added_at_once_and_let_go_after_their_item() -> None:
    line = Line(2)
    line.crew.start()
    assert line.num_threads() == 2
    line.crew.resize(5)
    assert (line.crew.size, line.num_threads()) == (5, 5)
    line.crew.resize(1)
    line.put(0, 200)  # those that waited for an item have done one now
    line.edge.end(200)
    line.crew.join()
    assert sorted(line.seen) == list(range(200))
    assert line.num_threads() == 0


def test_a_crew_that_is_not_there_yet_or_no_more_starts_nobody() -> None:
    line = Line(1)
    line.crew.resize(3)
    assert line.num_threads() == 0
    line.crew.start()
    assert line.num_threads() == 3
    line.edge.close()
    line.crew.join()
    line.crew.resize(7)
    assert line.num_threads() == 0


def test_an_edge_lets_more_in_or_less_from_now_on() -> None:
    edge: Edge[int] = Edge("line", 1)
    edge.put(0, 0)
    waiter = threading.Thread(target=edge.put, args=(1, 1))
    waiter.start()
    edge.resize(2)
    waiter.join(20)
    assert not waiter.is_alive()
    edge.resize(1)
    assert [edge.get(), edge.get()] == [(0, 0), (1, 1)]
    assert edge.stats.snapshot().capacity == 1
    edge.close()
    with pytest.raises(Closed):
        edge.put(2, 2)
