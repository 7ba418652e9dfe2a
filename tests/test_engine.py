"""The engine by itself: what its plan does to it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from fakes.source import NumberSource

from iopipe.engine import Engine, Failure, Parcel
from iopipe.faults import Faults
from iopipe.loaders.delivery import SlotDelivery
from iopipe.order import Cursor
from iopipe.plan import Task
from iopipe.protocols import Samples
from iopipe.stages import Stage
from iopipe.storage import MemoryStore


def tasks(num_whole: int, *, rest: int) -> Iterator[Task]:
    """Batches of two tasks of two samples, then `rest` tasks of one more, then an error."""
    for number in range(2 * num_whole + rest):
        yield Task(
            entry=Cursor(),
            first=2 * number,
            ids=np.arange(2 * number, 2 * number + 2),
            num_valid=2,
            row=2 * (number % 2),
            num_batch_rows=4,
        )
    raise LookupError("there is no more")


@pytest.mark.parametrize("window", [None, 2])
@pytest.mark.parametrize("rest", [0, 1])
@pytest.mark.parametrize("num_threads", [1, 3])
def test_a_plan_that_fails_within_a_batch_or_between_two(
    num_threads: int, rest: int, window: int | None
) -> None:
    source, store = NumberSource(100), MemoryStore()

    def read(wanted: Samples) -> Samples:
        return source.samples(wanted.ids, store)

    stage = Stage(
        name="read", function=read, takes="samples", cause="storage", concurrency=num_threads
    )
    engine = Engine(
        tasks(3, rest=rest),
        [stage],
        seed=0,
        pads=False,
        window=window,
        faults=Faults(source, policy="raise", max_errors=0),
        delivery=SlotDelivery(None),
    )
    engine.start()
    try:
        items = [engine.get() for _ in range(5)]
    finally:
        engine.close()
    kinds = [type(item) for item in items]
    assert kinds.count(Parcel) == 3 and kinds.count(Failure) == 1 and items[-1] is None
    assert window is not None or kinds[3] is Failure
