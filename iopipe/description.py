"""What a pipeline will do, in words.

Stands beside the builder.  Invariant: it says what runs, not what was asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from iopipe.binding import READ_THREADS
from iopipe.order import Order
from iopipe.packing import Groups, padding_share
from iopipe.protocols import Source
from iopipe.stages import Stage


class Described(Protocol):
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
    def num_workers(self) -> int: ...

    @property
    def batch_size(self) -> int | None: ...

    @property
    def drop_last(self) -> bool: ...

    @property
    def device(self) -> str | None: ...

    @property
    def prefetch(self) -> int: ...

    @property
    def read_threads(self) -> int | None: ...


def description(pipeline: Described, chunk_samples: int, ahead_bytes: int) -> str:
    """A line a stage."""
    source, order = pipeline.source, pipeline.order
    lines = [
        f"source: {len(source)} samples in {len(source.shards)} shards, "
        f"fields {', '.join(source.columns)}",
        f"order: {order.sequence.describe()}, rank {order.rank} of {order.world}",
    ]
    if pipeline.groups is not None:
        lines.append(_packing(pipeline.groups))
    lines += _work(pipeline, chunk_samples, ahead_bytes)
    if pipeline.batch_size is not None:
        tail = ", last one dropped if short" if pipeline.drop_last else ""
        lines.append(f"batch: {pipeline.batch_size} samples{tail}")
        place = pipeline.device or "cpu"
        lines.append(f"deliver: on {place}, {pipeline.prefetch} batches ahead")
    return "\n".join(lines)


def _work(pipeline: Described, chunk_samples: int, ahead_bytes: int) -> list[str]:
    chunks = f"chunks of {chunk_samples} samples"
    if pipeline.num_workers:
        names = [stage.name for stage in pipeline.stages if stage.takes == "samples"]
        rest = [str(stage) for stage in pipeline.stages if stage.takes == "batch"]
        done = ", ".join(["read", *names])
        return [f"workers: {done}, {chunks} ({pipeline.num_workers} processes)", *rest]
    ahead = f", {ahead_bytes >> 20} MiB ahead" if ahead_bytes else ""
    return [
        f"read: {chunks} ({pipeline.read_threads or READ_THREADS} threads){ahead}",
        *map(str, pipeline.stages),
    ]


def _packing(groups: Groups) -> str:
    packing = groups.packing
    return (
        f"pack: {packing.method} into sequences of {packing.sequence_length}, "
        f"{packing.look_ahead} documents at a time, {100 * padding_share(groups):.1f} % padding"
    )
