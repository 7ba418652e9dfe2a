"""The trainer's end of its workers: who has gone, who may go, and what was cut."""

from __future__ import annotations

import errno
import os
import queue
import resource
import struct
import time
from collections.abc import Iterator
from multiprocessing import reduction
from multiprocessing.connection import Connection, Pipe

import pytest
import torch

from iopipe.loaders.workers.channels import ResultQueue, ResultSender, receive_descriptor
from iopipe.loaders.workers.slabs import Arena


@pytest.fixture
def results() -> Iterator[ResultQueue]:
    made = ResultQueue()
    yield made
    made.close()


def worker(results: ResultQueue) -> Connection:
    ours, theirs = Pipe(duplex=True)
    results.add(ours, lambda number: None)
    return theirs


def seconds_without(results: ResultQueue, timeout: float) -> float:
    start = time.monotonic()
    with pytest.raises(queue.Empty):
        results.get(timeout)
    return time.monotonic() - start


def test_who_was_told_to_end_hurries_nobody(results: ResultQueue) -> None:
    first, second = worker(results), worker(results)
    results.let_go(0)
    first.close()
    assert seconds_without(results, 0.2) > 0.1
    second.close()
    assert seconds_without(results, 60) < 60


@pytest.mark.parametrize("num_bytes", [2, 4, 20])  # within the length, before and in the message
def test_a_message_that_was_cut_is_an_end(results: ResultQueue, num_bytes: int) -> None:
    sender = worker(results)
    os.write(sender.fileno(), (struct.pack("!i", 100) + bytes(100))[:num_bytes])
    sender.close()
    assert seconds_without(results, 60) < 60


def test_what_the_trainer_puts_wakes_who_waits(results: ResultQueue) -> None:
    sender = worker(results)
    results.allow_put()
    results.put("wake up")
    assert results.get() == "wake up"
    ResultSender(sender, Arena()).put(torch.arange(3))
    assert results.get().tolist() == [0, 1, 2]
    sender.close()


def test_a_descriptor_too_many_is_no_end() -> None:
    ours, theirs = Pipe(duplex=True)
    reduction.send_handle(theirs, theirs.fileno(), None)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    try:  # room for the line that it comes by, not for itself
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free + 1, limits[1]))
        with pytest.raises(OSError) as caught:
            receive_descriptor(ours)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert caught.value.errno == errno.EMFILE
    ours.close()
    theirs.close()
