"""Where the rooms meet: `iopipe.read` gives a pipeline everything it may not import.

Stands above readers, decode and delivery, which the core reaches through the `Toolkit`
protocol only.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from iopipe.errors import PipelineError
from iopipe.loaders.cuda import CudaLink
from iopipe.loaders.decode import make_decoder
from iopipe.loaders.delivery import SlotDelivery
from iopipe.loaders.packed_batch import add_cu_seqlens
from iopipe.loaders.padding import pad_columns
from iopipe.loaders.workers.pool import WorkerPool
from iopipe.loaders.workers.program import Program
from iopipe.order import Order, Stored
from iopipe.packing import Groups
from iopipe.pipeline import Pipeline
from iopipe.protocols import ByteRange, ErrorPolicy, Samples, Source, Store
from iopipe.readers import open_source
from iopipe.readers.packed import PackedSource
from iopipe.stages import Delivery, ImageOptions, Stage, Workers
from iopipe.storage import open_store
from iopipe.storage.ahead import ReadAheadStore
from iopipe.storage.routed import RoutedStore, place_of

_READ_AHEAD_BYTES = 256 << 20


def read(
    source: str | os.PathLike[str] | list[str] | tuple[str, ...] | Source,
    *,
    columns: Sequence[str] | None = None,
    store: Store | None = None,
    on_error: ErrorPolicy = "raise",
    max_errors: int = 100,
) -> Pipeline:
    """A pipeline over the samples of `source`: paths as `open_source` takes them, or a
    Source that is open already.

    `columns` names the fields to read, by default all.  `on_error` says what happens to a
    damaged sample: 'raise' ends the run; 'skip' leaves it out, and its batch is shorter;
    'quarantine' also remembers it in the state, so that it is not tried again.  More than
    `max_errors` of them end the run all the same.  Samples come as stored, one rank, until
    `shuffle` and `split` say otherwise.
    """
    if isinstance(source, str | os.PathLike | list | tuple):
        source = open_source(source, columns=columns, store=store, on_error=on_error)
    elif columns is not None:
        raise PipelineError("columns are chosen when a source is opened; pass them to open_source")
    return Pipeline(
        source=source,
        toolkit=_Loaders(),
        order=Order(sequence=Stored(num_samples=len(source))),
        store=store,
        on_error=on_error,
        max_errors=max_errors,
    )


class _Loaders:
    """The real toolkit."""

    def open_store(self, source: Source) -> Store:
        return _opened(source.shards)

    def workers(
        self,
        source: Source,
        stages: Sequence[Stage],
        *,
        store: Store | None,
        num_workers: int,
        seed: int,
    ) -> Workers:
        opened = partial(_opened, source.shards) if store is None else partial(_copy_of, store)
        program = Program(source=source, open_store=opened, stages=tuple(stages), seed=seed)
        return WorkerPool(program, num_workers=num_workers)

    def read_ahead(
        self, store: Store, coming: Iterator[Sequence[ByteRange]], *, num_bytes: int
    ) -> ReadAheadStore:
        return ReadAheadStore(store, coming, num_bytes=num_bytes)

    def default_read_ahead(self, source: Source) -> int:
        return _READ_AHEAD_BYTES if any(map(_is_remote, source.shards)) else 0

    def decoder(self, options: ImageOptions) -> Callable[[Samples], Samples]:
        return make_decoder(options)

    def padder(self, values: Mapping[str, float]) -> Callable[[Samples], Samples]:
        return pad_columns(values)

    def packed(self, source: Source, groups: Groups, *, column: str, pad_token: int) -> Source:
        return PackedSource(source, groups, column=column, pad_token=pad_token)

    def cu_seqlens(self, columns: dict[str, Any]) -> dict[str, Any]:
        return add_cu_seqlens(columns)

    def delivery(self, device: str, *, is_shared: bool) -> Delivery:
        if device == "cpu":
            return SlotDelivery(None, is_shared=is_shared)
        if device.split(":")[0] == "cuda":
            return SlotDelivery(CudaLink(device), is_shared=is_shared)
        raise PipelineError(f"device {device!r} is unknown; use 'cpu', 'cuda' or 'cuda:N'")


def _opened(shards: Sequence[str]) -> Store:
    places = {place_of(shard): shard for shard in reversed(shards)}
    if len(places) < 2:
        return open_store(shards[0] if shards else "")
    return RoutedStore({place: open_store(shard) for place, shard in places.items()})


def _copy_of(store: Store) -> Store:
    """A store that was opened before a fork does not serve the child: what it was made of
    does."""
    copied: Store = pickle.loads(pickle.dumps(store))
    return copied


def _is_remote(path: str) -> bool:
    return place_of(path).partition("://")[0] not in ("file", "memory")
