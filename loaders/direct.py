"""Batches read into the device's memory, without the host's hands on their bytes.

Stands where the slots of the host and the copy stand otherwise.  Invariant: a slot is read into
only after the event of its last use; what kvikio has read is there when it says so.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, cast

import torch

from iopipe.errors import DataError, PipelineError
from iopipe.loaders.arena import Place, aligned
from iopipe.loaders.collate import views
from iopipe.loaders.delivery import DeviceUse, Finish, Link
from iopipe.loaders.slots import Ring, Slot
from iopipe.parts import NOTHING_LEFT
from iopipe.protocols import (
    Allocate,
    Batch,
    Event,
    Events,
    Int64Array,
    Reads,
    Samples,
    Source,
    Store,
)
from iopipe.readers.spans import RowSpans
from iopipe.storage.device import DeviceRead

_NUM_SLOTS = 6
"""Two being read into, two waiting, two with the consumer."""
_FILLED = "__filled__"


class DeviceStore(Store, Protocol):
    """Reads into the memory of a device, too."""

    def submit_to_device(self, requests: Sequence[DeviceRead]) -> Reads: ...


class SpanSource(Protocol):
    """A source whose rows have bytes of their own, numbers of one shape."""

    @property
    def shards(self) -> tuple[str, ...]: ...

    def keys(self, ids: Int64Array) -> Sequence[str]: ...

    def row_spans(self, ids: Int64Array, store: Store) -> list[RowSpans]:
        """Where every column's rows lie; `DataError` with its row for one that cannot be used,
        `PipelineError` for a column that is no such numbers."""
        ...


@dataclass(frozen=True, slots=True)
class _Filled:
    """A slot with the rows of one batch."""

    slot: Slot
    layout: Mapping[str, Place]
    num_bytes: int


class DirectDelivery:
    """Device slots that are read into; the reads are for any number of threads."""

    def __init__(self, link: Link, *, finish: Finish | None = None) -> None:
        self._link = link
        self._finish = finish
        self._ring = Ring(
            lambda num_bytes: Slot(link.allocate_device(num_bytes)),
            num_slots=_NUM_SLOTS,
            events=link.events,
        )
        self._taking = threading.Lock()
        self._last: Event | None = None
        """The end of all that was enqueued so far."""

    @property
    def events(self) -> Events:
        return self._link.events

    def reader(self, source: Source, store: Store) -> Callable[[Samples], Samples]:
        if getattr(store, "submit_to_device", None) is None:
            raise PipelineError(
                f"the store ({store.describe()}) does not read into a device's memory: leave "
                "store= out, or give a GdsStore"
            )
        return partial(self._read, cast(SpanSource, source), cast(DeviceStore, store))

    def reserve(self, batch: Hashable, *, row: int, num_rows: int) -> Allocate:
        raise PipelineError("there is no slot on the host to write into; this is a bug")

    def repack(self, batch: Batch, columns: Mapping[str, Any]) -> Batch:
        raise PipelineError("the host does not see these batches; this is a bug")

    def collate(self, batch: Hashable, chunks: Sequence[Samples]) -> Batch:
        """A batch is one chunk here."""
        (samples,) = chunks
        if not len(samples):
            raise DataError(NOTHING_LEFT)
        filled = cast(_Filled, samples.columns[_FILLED])
        return Batch(
            columns={"__key__": samples.keys},
            num_samples=len(samples),
            ids=samples.ids,
            payload=filled,
            layout=filled.layout,
        )

    def transfer(self, batch: Batch) -> Batch:
        filled: _Filled = batch.payload
        layout, num_bytes = self._with_results(filled.layout, filled.num_bytes)
        use = DeviceUse(self._link, self._ring)
        flat = self._ring.lend(filled.slot, num_bytes, use.end)
        columns = {**batch.columns, **views(flat, layout)}
        if self._finish is not None:
            use.ready = self._last = self._link.follow(
                partial(self._finish.make, views(flat, layout))
            )
            columns = self._finish.result(columns)
        return Batch(
            columns=columns,
            num_samples=batch.num_samples,
            ids=batch.ids,
            ready=use.ready,
            handed_over=use.handed_over,
        )

    def close(self) -> None:
        if self._last is not None:  # it needs its memory until it ends
            self.events.synchronize(self._last)
            self._last = None
        self._ring.clear()

    def _read(self, source: SpanSource, store: DeviceStore, wanted: Samples) -> Samples:
        spans = source.row_spans(wanted.ids, store)
        layout: dict[str, Place] = {}
        end = 0
        for column in spans:
            shape = (len(wanted), *column.row_shape)
            layout[column.name] = Place(aligned(end), shape, column.dtype)
            end = layout[column.name].offset + layout[column.name].num_bytes
        slot = self._taken(self._with_results(layout, end)[1])
        try:
            _read_into(slot.buffer, layout, spans, source.shards, store)
        except BaseException:
            slot.event = None  # all reads have ended
            self._ring.give_back(slot)
            raise
        filled: Any = _Filled(slot, layout, end)
        return wanted.made({_FILLED: filled}, keys=source.keys(wanted.ids))

    def _with_results(
        self, layout: Mapping[str, Place], end: int
    ) -> tuple[Mapping[str, Place], int]:
        if self._finish is None:
            return layout, end
        made, end = self._finish.places(layout, end)
        return {**layout, **made}, end

    def _taken(self, num_bytes: int) -> Slot:
        with self._taking:
            return self._ring.take(max(num_bytes, 1))


def _read_into(
    memory: torch.Tensor,
    layout: Mapping[str, Place],
    spans: Sequence[RowSpans],
    shards: Sequence[str],
    store: DeviceStore,
) -> None:
    """One read for each stretch of rows that follow each other; returns when all are there."""
    requests: list[DeviceRead] = []
    firsts: list[tuple[int, int]] = []
    for column in spans:
        begin, width = layout[column.name].offset, column.row_bytes
        for shard, offset, first, count in column.runs() if width else ():
            place = begin + first * width
            buffer: Any = memory[place : place + count * width]
            requests.append(DeviceRead(shards[shard], offset, buffer))
            firsts.append((first, width))
    for request, (first, width), num_read in zip(
        requests, firsts, store.submit_to_device(requests).wait(), strict=True
    ):
        if num_read < len(cast(torch.Tensor, request.buffer)):
            raise DataError(
                "its bytes could not all be read; the shard became shorter since it was opened",
                row=first + num_read // width,
                shard=request.path,
            )
