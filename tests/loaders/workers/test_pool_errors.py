"""Errors of worker processes that could be taken for others: whose they are is said."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from fakes import mapped
from fakes.processes import alive_since, children
from fakes.source import NumberSource, numbers

from iopipe import MemoryStore, WorkerError
from iopipe.loaders.workers import pool
from iopipe.loaders.workers.program import Program
from iopipe.mapping import map_stage
from iopipe.protocols import Samples


@pytest.mark.parametrize(
    ("function", "expected"),
    [(mapped.loses_its_connection, ConnectionResetError), (mapped.reads_too_far, EOFError)],
)
def test_the_users_own_lost_connection_is_no_dead_worker(
    function: Any, expected: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = children()
    asked: list[Any] = []
    monkeypatch.setattr(pool, "causes_of_death", lambda *_: asked.append(1) or "")
    with (
        pytest.raises(expected, match="the user's own") as caught,
        numbers(20).map(function).batch(4).workers(1).run() as run,
    ):
        list(run)
    assert "mapped.py" in "\n".join(caught.value.__notes__)
    assert not asked and not alive_since(before)


def test_a_value_that_cannot_be_sent_is_an_error_by_name() -> None:
    pipeline = numbers(20).map(mapped.unsendable_value).workers(1)
    with pytest.raises(Exception, match=r"pickle.*unsendable_value"), pipeline.run() as run:
        list(run)


def test_a_channel_whose_worker_is_gone_says_so_again() -> None:
    """To the chunk that comes after the one with which it was found out."""
    stage = map_stage(mapped.exits, "exits", batched=False, random=False)
    program = Program(source=NumberSource(4), open_store=MemoryStore, stages=(stage,), seed=0)
    workers = pool.WorkerPool(program, num_workers=1)
    for _ in range(2):
        with pytest.raises(WorkerError, match=r"a worker process died.*exit code 3"):
            workers.apply(Samples(ids=np.arange(2), keys=["", ""], columns={}))
    workers.close()
