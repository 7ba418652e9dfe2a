"""A source without storage, and a toolkit without codecs, for tests of the engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import pyarrow as pa
from fakes.device_store import FakeDeviceStore

from iopipe.errors import DataError
from iopipe.loaders.delivery import Link, SlotDelivery
from iopipe.loaders.direct import DirectDelivery
from iopipe.loaders.next_token import NextTokenStep
from iopipe.loaders.packed_batch import add_cu_seqlens
from iopipe.loaders.padding import pad_columns
from iopipe.loaders.workers.pool import WorkerPool
from iopipe.loaders.workers.program import Program
from iopipe.order import Order, Stored
from iopipe.packing import Groups
from iopipe.pipeline import Pipeline
from iopipe.protocols import ByteRange, ErrorPolicy, Int64Array, Location, Samples, Source, Store
from iopipe.readers.packed import PackedSource
from iopipe.readers.tokens import TokenSource
from iopipe.readers.window_starts import WindowStarts
from iopipe.stages import Delivery, DeliveryOptions, ImageOptions, Route, Stage, Workers
from iopipe.storage import MemoryStore, PosixStore
from iopipe.storage.ahead import ReadAheadStore


class NumberSource:
    """Sample i has the one field x, the number i; `bad` ids cannot be read."""

    shards = ("memory://numbers",)
    columns = ("x",)
    schema = pa.schema({"x": pa.int64()})

    def __init__(
        self, num_samples: int, *, bad: Sequence[int] = (), sample_bytes: int = 100_000
    ) -> None:
        self._num_samples = num_samples
        self.bad = set(bad)
        self._sample_bytes = sample_bytes
        self.faults: list[DataError] = []
        self.num_reads = 0

    @property
    def digest(self) -> str:
        return f"numbers-{self._num_samples}"

    def __len__(self) -> int:
        return self._num_samples

    def locate(self, sample_id: int) -> Location:
        return Location("memory://numbers", sample_id * self._sample_bytes, f"k{sample_id}")

    def ranges(self, ids: Sequence[int] | Int64Array) -> list[ByteRange]:
        size = self._sample_bytes
        return [ByteRange("memory://numbers", int(sample) * size, size) for sample in ids]

    def samples(self, ids: Sequence[int] | Int64Array, store: Store) -> Samples:
        for row, sample in enumerate(ids):
            if int(sample) in self.bad:
                raise DataError(f"number {sample} is bad", row=row)
        self.num_reads += 1
        return Samples(
            ids=np.asarray(ids, np.int64),
            keys=[f"k{sample}" for sample in ids],
            columns={"x": np.asarray(ids, np.int64)},
        )


class FakeToolkit:
    """No codecs; batches in host slots, or over a fake link."""

    def __init__(self, link: Link | None = None) -> None:
        self.link = link
        self.stores: list[MemoryStore] = []

    def open_store(self, source: Source) -> Store:
        self.stores.append(MemoryStore())
        return self.stores[-1]

    def read_ahead(
        self, store: Store, coming: Iterator[Sequence[ByteRange]], *, num_bytes: int
    ) -> ReadAheadStore:
        return ReadAheadStore(store, coming, num_bytes=num_bytes)

    def default_read_ahead(self, source: Source) -> int:
        return 0

    def decoder(self, options: ImageOptions) -> Callable[[Samples], Samples]:
        return lambda samples: samples

    def padder(self, values: Mapping[str, float]) -> Callable[[Samples], Samples]:
        return pad_columns(values)

    def packed(self, source: Source, groups: Groups, *, column: str, pad_token: int) -> Source:
        return PackedSource(source, groups, column=column, pad_token=pad_token)

    def cu_seqlens(self, columns: dict[str, Any]) -> dict[str, Any]:
        return add_cu_seqlens(columns)

    def delivery(self, options: DeliveryOptions, source: Source) -> Delivery:
        finish = None
        if options.next_token is not None:
            assert isinstance(source, TokenSource)
            finish = NextTokenStep(options.next_token, source, PosixStore)
        if options.is_direct:
            assert self.link is not None
            return DirectDelivery(self.link, finish=finish)
        return SlotDelivery(self.link, is_shared=options.is_shared, finish=finish)

    def open_device_store(self, source: Source) -> Store:
        return FakeDeviceStore()

    def decide(
        self, source: Source, device: str, tasks: Sequence[Sequence[int]]
    ) -> tuple[Route, str]:
        return "direct", "the test says so"

    def near(self, device: str) -> AbstractContextManager[None]:
        return nullcontext()

    def starts(self, source: Source) -> Source:
        assert isinstance(source, TokenSource)
        return WindowStarts(source)

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
        program = Program(source=source, open_store=MemoryStore, stages=tuple(stages), seed=seed)
        return WorkerPool(program, num_workers=num_workers)


def numbers(
    num_samples: int,
    *,
    bad: Sequence[int] = (),
    on_error: ErrorPolicy = "raise",
    max_errors: int = 100,
    sample_bytes: int = 100_000,
    toolkit: FakeToolkit | None = None,
) -> Pipeline:
    """A pipeline over the numbers 0 .. num_samples-1."""
    return Pipeline(
        source=NumberSource(num_samples, bad=bad, sample_bytes=sample_bytes),
        toolkit=toolkit or FakeToolkit(),
        order=Order(sequence=Stored(num_samples=num_samples)),
        on_error=on_error,
        max_errors=max_errors,
    )
