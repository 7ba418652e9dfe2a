"""What tests of runs ask for again and again."""

from __future__ import annotations

import contextlib
import gc
import os
import threading
from collections.abc import Iterator
from typing import Any

from iopipe.pipeline import Pipeline


def numbers_of(pipeline: Pipeline, **options: Any) -> list[list[int]]:
    """The column 'x' of every batch."""
    with pipeline.run(**options) as run:
        return [batch["x"].tolist() for batch in run]


def threads_of_runs() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("iopipe")}


@contextlib.contextmanager
def nothing_left_behind() -> Iterator[None]:
    """No thread and no descriptor outlives what is done inside."""
    before = threads_of_runs(), len(os.listdir("/proc/self/fd"))
    yield
    gc.collect()
    assert (threads_of_runs(), len(os.listdir("/proc/self/fd"))) == before
