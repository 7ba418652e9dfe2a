"""How many samples are read, decoded and copied at once.

Stands between the builder and its plan.  Invariant: sizes change how fast batches come, never
what is in them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from iopipe.binding import fills, read_threads
from iopipe.errors import PipelineError
from iopipe.order import Order
from iopipe.packing import Groups, PackedPlan
from iopipe.plan import Plan, SamplePlan, samples_in
from iopipe.protocols import Int64Array, Source
from iopipe.stages import NextToken, Route, Stage

_CHUNK_BYTES = 4 << 20
_CHUNK_TOKENS = 1 << 18
_CHUNKS_PER_BATCH = 8
"""Chunks are long, since each costs about half a millisecond whatever is in it, but several
make a batch, so that all threads work on the first one.  On 2 cores chunks of 10, 32 and 40
photographs of 107 KB gave 960, 1080 and 1090 images/s."""
_TOGETHER_BYTES = 4 << 20
"""Small batches are made together up to here: each costs the threads some 100 us whatever is
in it, and a device takes small copies at a fraction of its rate."""


class Sized(Protocol):
    """What is asked of a pipeline."""

    @property
    def source(self) -> Source: ...

    @property
    def order(self) -> Order: ...

    @property
    def stages(self) -> Sequence[Stage]: ...

    @property
    def groups(self) -> Groups | None: ...

    @property
    def token_options(self) -> NextToken | None: ...

    @property
    def num_workers(self) -> int: ...

    @property
    def batch_size(self) -> int | None: ...

    @property
    def drop_last(self) -> bool: ...

    @property
    def route(self) -> Route: ...

    @property
    def chunk_samples(self) -> int | None: ...

    @property
    def read_threads(self) -> int | None: ...


def batches_together(pipeline: Sized) -> int:
    """How many batches are made as one: of sources that read into slots, where no function of
    the user's has to see a batch, rows are samples (padding makes more), and nothing is counted
    through the batch as documents are."""
    size = pipeline.batch_size
    if size is None or pipeline.stages or pipeline.num_workers or not fills(pipeline.source):
        return 1
    tokens = pipeline.token_options
    if pipeline.order.tail == "pad" or (tokens is not None and tokens.end_token is not None):
        return 1
    return max(1, samples_in(_TOGETHER_BYTES, pipeline.source) // size)


def is_cut(pipeline: Sized, batches_together: int) -> bool:
    """Whether a task may be any part of a batch."""
    is_whole = any(stage.whole_batches for stage in pipeline.stages)
    return batches_together == 1 and pipeline.route == "slots" and not is_whole


def num_read_threads(pipeline: Sized) -> int:
    """As many as were asked for, or as suit the source."""
    return pipeline.read_threads or read_threads(pipeline.source)


def lengths_of(source: Source) -> Int64Array:
    """[n]: of each sample; `PipelineError` where the source does not know."""
    found: Int64Array | None = getattr(source, "lengths", None)
    if found is None:
        raise PipelineError("this source does not say how long its samples are; token files do")
    return found


def check_order(pipeline: Sized, *, in_order: bool, window: int) -> None:
    """`PipelineError` where its batches cannot come as they are ready."""
    if not in_order and pipeline.batch_size is None:
        raise PipelineError("in_order=False is about batches; call batch(n) before run")
    if pipeline.groups is not None and not in_order:
        raise PipelineError("packed sequences come in order; leave in_order=False out")
    if window < 1:
        raise PipelineError(f"window is {window}; it must be at least 1")


def chunk_samples_of(pipeline: Sized, batches_together: int) -> int:
    """How many samples are one task: as many as were asked for, or as suits their size."""
    size, groups = pipeline.batch_size, pipeline.groups
    if size is not None and not is_cut(pipeline, batches_together):
        return size * batches_together
    if pipeline.chunk_samples is not None:
        return pipeline.chunk_samples
    if size is not None and fills(pipeline.source):  # copies: long ones, one a thread
        each = -(-size // num_read_threads(pipeline))
        return max(each, min(size, samples_in(_CHUNK_BYTES, pipeline.source)))
    most = 256 if size is None else -(-size // _CHUNKS_PER_BATCH)
    if groups is not None:
        return min(max(1, _CHUNK_TOKENS // groups.packing.sequence_length), most)
    return min(samples_in(_CHUNK_BYTES, pipeline.source), most)


def plan_of(
    pipeline: Sized,
    end_epoch: int | None,
    batches_together: int = 1,
    *,
    live_chunk: Callable[[], int] | None = None,
) -> Plan:
    """The tasks of a run until `end_epoch`.  `live_chunk` is asked for every batch how many
    samples are one of them; not where sequences are packed."""
    num_samples = chunk_samples_of(pipeline, batches_together)
    if pipeline.groups is not None:
        return PackedPlan(
            pipeline.order,
            pipeline.groups,
            batch_size=pipeline.batch_size,
            drop_last=pipeline.drop_last,
            chunk_samples=num_samples,
            end_epoch=end_epoch,
        )
    return SamplePlan(
        order=pipeline.order,
        batch_size=pipeline.batch_size,
        drop_last=pipeline.drop_last,
        chunk_samples=num_samples,
        end_epoch=end_epoch,
        batches_together=batches_together,
        live_chunk=live_chunk,
    )
