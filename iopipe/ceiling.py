"""What the storage of a pipeline can give.

Stands above the builder.  Invariant: what is read is what a run would read, in its order, by the
store that it would open.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from iopipe.order import Cursor
from iopipe.pipeline import Pipeline
from iopipe.protocols import ByteRange
from iopipe.sizing import plan_of
from iopipe.storage.ceiling import Ceiling, probe


def measure_storage(pipeline: Pipeline, *, seconds: float = 2.0, epoch: int = 0) -> Ceiling:
    """Read for `seconds` what the pipeline would read in an epoch, and do nothing with it; give
    the result to `run(ceiling=...)`.

    It reads from the middle of `epoch` on, so that what a short run comes to first is as cold as
    before; take another epoch than the run's where that matters.
    """
    store = pipeline.store or pipeline.toolkit.open_store(pipeline.source)
    try:
        return probe(store, _ranges(pipeline, epoch), seconds=seconds)
    finally:
        if pipeline.store is None:
            store.close()


def _ranges(pipeline: Pipeline, epoch: int) -> Iterator[Sequence[ByteRange]]:
    """From the middle on, then the rest, over and over."""
    plan = plan_of(pipeline, None)
    middle = plan.num_samples(Cursor(epoch=epoch)) // 2
    for task in plan.tasks(plan.after(Cursor(epoch=epoch), middle)):
        yield pipeline.source.ranges(task.ids)
