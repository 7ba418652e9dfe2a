"""Where the rooms meet: `iopipe.read` gives a pipeline everything it may not import.

Stands above readers, decode and delivery, which the core reaches through the `Toolkit`
protocol only.
"""

from __future__ import annotations

import contextlib
import os
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from iopipe.errors import PipelineError
from iopipe.loaders.crossover import decide
from iopipe.loaders.cuda import CudaLink
from iopipe.loaders.decode import make_decoder, open_engine
from iopipe.loaders.delivery import SlotDelivery
from iopipe.loaders.device_columns import DeviceColumns
from iopipe.loaders.direct import DirectDelivery
from iopipe.loaders.packed_batch import add_cu_seqlens
from iopipe.loaders.padding import pad_columns
from iopipe.loaders.workers.nearby import Numa, binding_for, memory_node, threads_near
from iopipe.loaders.workers.pool import WorkerPool
from iopipe.loaders.workers.program import Program
from iopipe.order import Order, Stored
from iopipe.packing import Groups
from iopipe.pipeline import Pipeline
from iopipe.protocols import ByteRange, ErrorPolicy, Samples, Source, Store
from iopipe.readers import OpenOptions, open_source
from iopipe.readers.packed import PackedSource
from iopipe.readers.tokens import TokenSource
from iopipe.readers.window_starts import WindowStarts
from iopipe.stages import Delivery, DeliveryOptions, Held, ImageOptions, Route, Stage, Workers
from iopipe.storage import MappedStore, open_store
from iopipe.storage.ahead import ReadAheadStore
from iopipe.storage.routed import RoutedStore, place_of

_READ_AHEAD_BYTES = 256 << 20


def read(
    source: str | os.PathLike[str] | list[str] | tuple[str, ...] | Source,
    *,
    columns: Sequence[str] | None = None,
    window: int | None = None,
    store: Store | None = None,
    on_error: ErrorPolicy = "raise",
    max_errors: int = 100,
) -> Pipeline:
    """A pipeline over the samples of `source`: paths as `open_source` takes them, or a
    Source that is open already.

    `columns` names the fields to read, by default all.  `window` is for token files: a sample
    is so many tokens in a row (see `OpenOptions` for others).  `on_error` says what happens to a
    damaged sample: 'raise' ends the run; 'skip' leaves it out, and its batch is shorter;
    'quarantine' also remembers it in the state, so that it is not tried again.  More than
    `max_errors` of them end the run all the same.  Samples come as stored, one rank, until
    `shuffle` and `split` say otherwise.
    """
    if isinstance(source, str | os.PathLike | list | tuple):
        options = OpenOptions(window=window)
        source = open_source(
            source, columns=columns, store=store, on_error=on_error, options=options
        )
    elif columns is not None or window is not None:
        raise PipelineError(
            "columns and window are chosen when a source is opened; pass them to open_source"
        )
    return Pipeline(
        source=source,
        toolkit=_Loaders(),
        order=Order(sequence=Stored(num_samples=len(source))),
        store=store,
        on_error=on_error,
        max_errors=max_errors,
    )


class _Loaders:
    """The real toolkit, of one `read`."""

    def __init__(self) -> None:
        self._decided: dict[tuple[str, str, str], tuple[Route, str]] = {}

    def open_store(self, source: Source) -> Store:
        if getattr(source, "fills", False) and _fits_in_memory(source.shards):
            return MappedStore()
        return _opened(source.shards)

    def workers(
        self,
        source: Source,
        stages: Sequence[Stage],
        *,
        store: Store | None,
        num_workers: int,
        seed: int,
        near: str | None,
    ) -> Workers:
        opened = partial(_opened, source.shards) if store is None else partial(_copy_of, store)
        program = Program(source=source, open_store=opened, stages=tuple(stages), seed=seed)
        numa: Numa | None = None if near is None else "auto"
        binding = binding_for(numa, device=near, num_workers=num_workers)
        return WorkerPool(program, num_workers=num_workers, binding=binding)

    def read_ahead(
        self, store: Store, coming: Iterator[Sequence[ByteRange]], *, num_bytes: int
    ) -> ReadAheadStore:
        return ReadAheadStore(store, coming, num_bytes=num_bytes)

    def default_read_ahead(self, source: Source) -> int:
        return _READ_AHEAD_BYTES if any(map(_is_remote, source.shards)) else 0

    def decoder(self, options: ImageOptions) -> Callable[[Samples], Samples]:
        return make_decoder(options)

    def engine(self, options: ImageOptions, device: str) -> Held:
        return open_engine(options, device)

    def padder(self, values: Mapping[str, float]) -> Callable[[Samples], Samples]:
        return pad_columns(values)

    def packed(self, source: Source, groups: Groups, *, column: str, pad_token: int) -> Source:
        return PackedSource(source, groups, column=column, pad_token=pad_token)

    def cu_seqlens(self, columns: dict[str, Any]) -> dict[str, Any]:
        return add_cu_seqlens(columns)

    def delivery(self, options: DeliveryOptions, source: Source) -> Delivery:
        device, tokens = options.device, options.next_token
        if device != "cpu" and device.split(":")[0] != "cuda":
            raise PipelineError(f"device {device!r} is unknown; use 'cpu', 'cuda' or 'cuda:N'")
        finish = None
        if tokens is not None:
            from iopipe.loaders.next_token import NextTokenStep

            finish = NextTokenStep(tokens, _windows(source), partial(self.open_store, source))
        if device == "cpu":
            if options.is_direct or (tokens is not None and tokens.resident):
                raise PipelineError("path='direct' and resident=True are for GPUs: add to('cuda')")
            return SlotDelivery(None, is_shared=options.is_shared, finish=finish)
        link = self.link(device, near=options.numa is not None)
        if options.is_direct:
            return DirectDelivery(link, finish=finish)
        return DeviceColumns(SlotDelivery(link, is_shared=options.is_shared, finish=finish))

    def link(self, device: str, *, near: bool = False) -> CudaLink:
        return CudaLink(device, node=memory_node(device) if near else None)

    def open_device_store(self, source: Source) -> Store:
        if not source.shards or any(map(_is_elsewhere, source.shards)):
            raise PipelineError("path='direct' reads local files; use path='slots' for others")
        return open_store(source.shards[0], prefer="gds")

    def decide(
        self, source: Source, device: str, tasks: Sequence[Sequence[int]]
    ) -> tuple[Route, str]:
        key = (source.digest, device, repr([(len(task), task[:8]) for task in tasks]))
        if key not in self._decided:  # so that a run does what describe() said
            self._decided[key] = decide(self, source, device, tasks)
        return self._decided[key]

    def near(self, device: str) -> AbstractContextManager[None]:
        return threads_near(device)

    def starts(self, source: Source) -> Source:
        return WindowStarts(_windows(source))


def _windows(source: Source) -> TokenSource:
    if not isinstance(source, TokenSource):
        raise PipelineError("next_token works on one set of token files: read(..., window=n)")
    return source


def _opened(shards: Sequence[str]) -> Store:
    places = {place_of(shard): shard for shard in reversed(shards)}
    if len(places) < 2:
        return open_store(shards[0] if shards else "")
    return RoutedStore({place: open_store(shard) for place, shard in places.items()})


def _fits_in_memory(shards: Sequence[str]) -> bool:
    """Whether local files may be mapped, so that rows are copied once, out of the page cache:
    files that it cannot hold are read by threads, which wait for a disk together."""
    if not shards or any(map(_is_elsewhere, shards)):
        return False
    with contextlib.closing(MappedStore()) as store:
        num_bytes = sum(map(store.size, shards))
    return num_bytes < os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _is_elsewhere(path: str) -> bool:
    return place_of(path).partition("://")[0] != "file"


def _copy_of(store: Store) -> Store:
    """A store that was opened before a fork does not serve the child: what it was made of
    does."""
    copied: Store = pickle.loads(pickle.dumps(store))
    return copied


def _is_remote(path: str) -> bool:
    return place_of(path).partition("://")[0] not in ("file", "memory")
