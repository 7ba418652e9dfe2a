"""The stages of one run: those of the pipeline, bound to its store and its slots.

Stands between the frozen specs and the engine.  Invariant: the read comes first and, where
batches are made, the transfer last; a stage of the user's sees columns, never slots.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

from iopipe.protocols import Batch, Filling, Samples, Source, Store
from iopipe.stages import Delivery, Stage, Workers

_READ_THREADS = 2
_MAX_FILLING_THREADS = 8


def fills(source: Source) -> bool:
    """Whether the read itself can write into the slots."""
    return bool(getattr(source, "fills", False))


def read_threads(source: Source) -> int:
    """Two keep a disk busy; reads that fill slots are copies without the interpreter lock, and
    a core copies a fraction of what a device takes."""
    if not fills(source):
        return _READ_THREADS
    cores = len(os.sched_getaffinity(0))
    return min(max(_READ_THREADS, cores // 2), _MAX_FILLING_THREADS)


def bound_stages(
    source: Source,
    stages: Sequence[Stage],
    store: Store | None,
    workers: Workers | None,
    delivery: Delivery | None,
    *,
    prefetch: int,
    read_threads: int,
    device: str = "cpu",
) -> tuple[Stage, ...]:
    """The read from `store` by `read_threads`, or `workers` that do all that is done to samples,
    then `stages`, and the transfer, which keeps `prefetch` batches ahead."""
    stages = [_opened(stage, device) for stage in stages]
    if workers is not None:
        first = _workers_stage(workers)
        stages = [stage for stage in stages if stage.takes == "batch"]
    else:
        assert store is not None
        first = _read_stage(source, store, delivery, read_threads)
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


def _opened(stage: Stage, device: str) -> Stage:
    if stage.open is None:
        return stage
    held = stage.open(device)
    return replace(stage, function=held, held=held, cause=held.cause, open=None)


def _read_stage(source: Source, store: Store, delivery: Delivery | None, num_threads: int) -> Stage:
    """Threads of this process read."""
    direct = None if delivery is None else delivery.reader(source, store)
    return Stage(
        name="read",
        function=direct or _reader(source, store),
        takes="samples",
        cause="storage",
        concurrency=num_threads,
        buffer=4,
        scales=True,
        fills=direct is None and fills(source),
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
    def fill(wanted: Samples) -> Samples:
        return cast(Filling, source).fill(wanted, store)

    def read(wanted: Samples) -> Samples:
        samples = source.samples(wanted.ids, store)
        samples.seed, samples.epoch = wanted.seed, wanted.epoch
        samples.allocate, samples.valid = wanted.allocate, wanted.valid
        return samples

    return fill if fills(source) else read


def _on_columns(
    function: Callable[[dict[str, Any]], dict[str, Any]], delivery: Delivery
) -> Callable[[Batch], Batch]:
    return lambda batch: delivery.repack(batch, function(batch.columns))
