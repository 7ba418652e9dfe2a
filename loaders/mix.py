"""`iopipe.mix`: one pipeline over several, in given shares.

Stands beside `loaders.read`.  Invariant: what a source is and in which order it is gone
through is settled by its own pipeline; the mixture decides only whose turn it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from iopipe.errors import PipelineError
from iopipe.order import Mixture, Order, Stop, phases_of
from iopipe.pipeline import Pipeline
from iopipe.protocols import Source, Store
from iopipe.readers.mixed import MixedSource
from iopipe.storage.routed import RoutedStore, place_of


def mix(
    pipelines: Mapping[str, Pipeline],
    *,
    weights: Mapping[str, float],
    by: Literal["sample", "token"] = "sample",
    stop: Stop = "all",
    schedule: Mapping[int, Mapping[str, float]] | None = None,
    seed: int = 0,
    epoch_samples: int | None = None,
) -> Pipeline:
    """A pipeline that takes turns among `pipelines`, each `read(...)` and perhaps `shuffle`.

    `weights` are shares of the samples, or with `by='token'` of the tokens, judged by the
    mean length of each source's samples.  `schedule` maps positions of the mixture to the
    weights that hold from there on; take multiples of batch size times ranks for a change
    between two steps.  `stop` and `epoch_samples`: see `iopipe.order.Mixture`.  Every sample
    tells its source, as a place in `pipelines`, in the column `__source__`.
    """
    for name, pipeline in pipelines.items():
        _check(name, pipeline)
    names = tuple(pipelines)
    sources = {name: pipeline.source for name, pipeline in pipelines.items()}
    if by not in ("sample", "token"):
        raise PipelineError(f"by is {by!r}: give 'sample' or 'token'")
    lengths = {name: _mean_tokens(name, sources[name]) for name in names} if by == "token" else None
    mixture = Mixture(
        names=names,
        parts=tuple(pipeline.order.sequence for pipeline in pipelines.values()),
        phases=phases_of(names, {0: weights, **(schedule or {})}, samples=lengths),
        stop=stop,
        seed=seed,
        epoch_samples=epoch_samples,
    )
    first = pipelines[names[0]]
    return replace(
        first,
        source=MixedSource(sources),
        order=Order(sequence=mixture),
        store=_store(pipelines),
    )


def _check(name: str, pipeline: Pipeline) -> None:
    if pipeline.stages or pipeline.batch_size is not None:
        raise PipelineError(
            f"pipeline {name!r} has stages already; mix after read(...) and shuffle(...), and "
            "decode, map and batch the mixture"
        )
    if pipeline.order.world != 1:
        raise PipelineError(f"pipeline {name!r} is split already; split the mixture")


def _mean_tokens(name: str, source: Source) -> float:
    lengths = getattr(source, "lengths", None)
    if lengths is None or not len(lengths):
        raise PipelineError(
            f"source {name!r} does not say how long its samples are; give weights by='sample'"
        )
    return float(lengths.mean())


def _store(pipelines: Mapping[str, Pipeline]) -> Store | None:
    """The stores that the pipelines were given, if any were; else a run opens its own."""
    given: dict[str, Store] = {}
    for name, pipeline in pipelines.items():
        if pipeline.store is None:
            continue
        for place in {place_of(shard) for shard in pipeline.source.shards}:
            if given.setdefault(place, pipeline.store) is not pipeline.store:
                raise PipelineError(f"pipeline {name!r} has another store for {place}; share one")
    stores = {id(store): store for store in given.values()}
    if not given:
        return None
    missing = [name for name, pipeline in pipelines.items() if pipeline.store is None]
    if missing:
        raise PipelineError(f"pipelines {missing} were given no store, others were: give all one")
    return RoutedStore(given) if len(stores) > 1 else next(iter(stores.values()))
