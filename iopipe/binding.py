"""The stages of one run: those of the pipeline, bound to its store and its slots.

Stands between the frozen specs and the engine.  Invariant: the read comes first and, where
batches are made, the transfer last; a stage of the user's sees columns, never slots.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from iopipe.protocols import Batch, Samples, Source, Store
from iopipe.stages import Delivery, Stage, Workers

READ_THREADS = 2


def bound_stages(
    source: Source,
    stages: Sequence[Stage],
    store: Store | None,
    workers: Workers | None,
    delivery: Delivery | None,
    *,
    prefetch: int,
    read_threads: int | None,
) -> tuple[Stage, ...]:
    """The read from `store`, by `read_threads` where they are given, or `workers` that do all
    that is done to samples; then `stages`, and the transfer, which keeps `prefetch` batches
    ahead."""
    if workers is not None:
        first = _workers_stage(workers)
        stages = [stage for stage in stages if stage.takes == "batch"]
    else:
        assert store is not None
        first = _read_stage(source, store, read_threads or READ_THREADS)
    if delivery is None:
        return (first, *stages)
    bound = tuple(
        replace(stage, function=_on_columns(stage.function, delivery))
        if stage.takes == "batch"
        else stage
        for stage in stages
    )
    last = Stage(
        name="transfer",
        function=delivery.transfer,
        takes="batch",
        cause="h2d",
        buffer=prefetch,
    )
    return (first, *bound, last)


def _read_stage(source: Source, store: Store, num_threads: int) -> Stage:
    """Threads of this process read."""
    return Stage(
        name="read",
        function=_reader(source, store),
        takes="samples",
        cause="storage",
        concurrency=num_threads,
        buffer=4,
        scales=True,
    )


def _workers_stage(workers: Workers) -> Stage:
    """Worker processes read and do all that is done to samples; a thread waits for each."""
    return Stage(
        name="workers",
        function=workers.apply,
        takes="samples",
        cause="decode",
        concurrency=workers.num_workers,
        buffer=workers.num_workers,
        scales=True,
        fills=True,
    )


def _reader(source: Source, store: Store) -> Callable[[Samples], Samples]:
    def read(wanted: Samples) -> Samples:
        samples = source.samples(wanted.ids, store)
        samples.seed, samples.epoch = wanted.seed, wanted.epoch
        samples.allocate, samples.valid = wanted.allocate, wanted.valid
        return samples

    return read


def _on_columns(
    function: Callable[[dict[str, Any]], dict[str, Any]], delivery: Delivery
) -> Callable[[Batch], Batch]:
    return lambda batch: delivery.repack(batch, function(batch.columns))
