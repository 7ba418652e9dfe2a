"""Edges: bounded, in order, never stuck."""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from iopipe.edge import Closed, Edge


def test_items_leave_in_order_however_they_come() -> None:
    edge: Edge[int] = Edge("test", 50)
    numbers = list(range(50))
    random.Random(3).shuffle(numbers)
    for number in numbers:
        edge.put(number, number * 10)
    edge.end(50)
    assert [edge.get() for _ in range(51)] == [(n, n * 10) for n in range(50)] + [None]


@pytest.mark.parametrize("capacity", [1, 2, 7])
def test_many_threads_and_a_small_window_neither_lose_nor_reorder(capacity: int) -> None:
    edge: Edge[int] = Edge("test", capacity)
    turns = iter(range(1000))
    lock = threading.Lock()
    largest_window = 0

    def produce() -> None:
        while True:
            with lock:
                number = next(turns, None)
            if number is None:
                edge.end(1000)
                return
            edge.put(number, number)

    with ThreadPoolExecutor(8) as pool:
        for _ in range(8):
            pool.submit(produce)
        seen = []
        while (entry := edge.get()) is not None:
            seen.append(entry[1])
            largest_window = max(largest_window, len(edge._items))
    assert seen == list(range(1000))
    assert largest_window <= capacity


def test_several_consumers_share_the_items_and_all_see_the_end() -> None:
    edge: Edge[int] = Edge("test", 4)

    def consume() -> list[int]:
        seen = []
        while (entry := edge.get()) is not None:
            seen.append(entry[1])
        return seen

    with ThreadPoolExecutor(4) as pool:
        consumers = [pool.submit(consume) for _ in range(4)]
        for number in range(200):
            edge.put(number, number)
        edge.end(200)
        parts = [consumer.result(timeout=20) for consumer in consumers]
    assert sorted(number for part in parts for number in part) == list(range(200))


@pytest.mark.parametrize("waiting_to", ["put", "get"])
def test_close_wakes_whoever_waits(waiting_to: str) -> None:
    edge: Edge[int] = Edge("test", 1)
    if waiting_to == "put":
        edge.put(0, 0)
    with ThreadPoolExecutor(1) as pool:
        waiter = pool.submit(edge.put, 1, 1) if waiting_to == "put" else pool.submit(edge.get)
        edge.close()
        with pytest.raises(Closed):
            waiter.result(timeout=20)
    edge.close()
