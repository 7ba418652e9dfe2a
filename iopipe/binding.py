"""The stages of one run: those of the pipeline, bound to its store and its slots.

Stands between the frozen specs and the engine.  Invariant: the read comes first and, where
batches are made, the transfer last; a stage of the user's sees columns, never slots.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from iopipe.protocols import Batch, Samples, Source, Store
from iopipe.stages import Delivery, Stage

READ_THREADS = 2


def bound_stages(
    source: Source,
    stages: Sequence[Stage],
    store: Store,
    delivery: Delivery | None,
    *,
    prefetch: int,
) -> tuple[Stage, ...]:
    """The read, `stages`, and the transfer, which keeps `prefetch` batches ahead."""
    first = Stage(
        name="read",
        function=_reader(source, store),
        takes="samples",
        cause="storage",
        concurrency=READ_THREADS,
        buffer=4,
    )
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
