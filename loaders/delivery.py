"""Host slots, and the copy to the device: the last stages before the training step.

Stands between decode and the run.  Invariant: a batch is written once into a host slot and
copied once to the device; each slot is written again only after the event of its last use.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import torch

from iopipe.loaders.arena import Arena, Layout, Place, Room
from iopipe.loaders.collate import Packed, delivered_ids, pack, pack_columns, views
from iopipe.loaders.shared import private_slot, shared_slot
from iopipe.loaders.slots import Ring, Slot
from iopipe.meter.events import HostEvents
from iopipe.protocols import Batch, Event, Events, Samples, Source, Store

_NUM_SLOTS = 4
"""Of each kind: one being written, one being copied or queued, two with the consumer."""


class Link(Protocol):
    """The way from host slots to device slots."""

    @property
    def events(self) -> Events: ...

    def allocate_host(self, num_bytes: int) -> torch.Tensor: ...

    def pin(self, address: int, num_bytes: int) -> None: ...

    def unpin(self, address: int) -> None: ...

    def allocate_device(self, num_bytes: int) -> torch.Tensor: ...

    def send(self, target: torch.Tensor, source: torch.Tensor, after: Event | None) -> Event: ...

    def follow(self, work: Callable[[], None]) -> Event: ...

    def end_of_use(self) -> Callable[[], Event]: ...


class Finish(Protocol):
    """Makes columns out of what was delivered, behind the copy."""

    def places(self, layout: Mapping[str, Place], end: int) -> tuple[dict[str, Place], int]: ...

    def prepare(self, link: Link) -> None: ...

    def make(self, columns: Mapping[str, torch.Tensor]) -> None: ...

    def on_host(self, columns: Mapping[str, Any]) -> dict[str, Any]: ...

    def result(self, columns: Mapping[str, Any]) -> dict[str, Any]: ...


class SlotDelivery:
    """Makes batches in host slots and, where there is a link, sends them to device slots.

    Batches are on loan: a slot comes back when the last tensor over it is gone, so a user
    may keep batches as long as memory allows.  Without a link the host slot itself is
    handed over.
    """

    def __init__(
        self, link: Link | None, *, is_shared: bool = False, finish: Finish | None = None
    ) -> None:
        """With `is_shared` worker processes can write into the host slots."""
        self._link = link
        self._finish = finish
        self._events: Events = HostEvents() if link is None else link.events
        self._host = Ring(_host_slots(link, is_shared), num_slots=_NUM_SLOTS, events=self._events)
        self._lock = threading.Lock()
        self._taking = threading.Lock()
        self._last: Event | None = None
        """The end of all that was enqueued so far."""
        self._arenas: dict[Hashable, Arena] = {}
        self._known: Layout = {}
        self._typical_bytes = 1
        # A device slot that is still in use is no reason to wait on the host: the copy
        # stream waits for it.
        self._device = (
            None
            if link is None
            else Ring(
                lambda num_bytes: Slot(link.allocate_device(num_bytes)),
                num_slots=_NUM_SLOTS,
                events=None,
            )
        )

    @property
    def events(self) -> Events:
        return self._events

    def reader(self, source: Source, store: Store) -> None:
        """Samples are read to the host, as any."""

    def reserve(self, batch: Hashable, *, row: int, num_rows: int) -> Room:
        with self._lock:
            if batch not in self._arenas:
                self._arenas[batch] = Arena(num_rows, self._take)
            return Room(self._arenas[batch], row, self._known)

    def collate(self, batch: Hashable, chunks: Sequence[Samples]) -> Batch:
        collated = self._collated(batch, chunks)
        collated.ids = delivered_ids(chunks)
        collated.num_samples = len(collated.ids)
        return collated

    def _collated(self, batch: Hashable, chunks: Sequence[Samples]) -> Batch:
        with self._lock:
            arena = self._arenas.pop(batch, None)
        if arena is None or arena.slot is None:
            return self._on_host(pack(chunks))
        try:
            packed = pack(chunks, arena.places)
        except Exception:  # nothing is left of it, say: the slot is
            self._host.give_back(arena.slot)
            raise
        if packed.num_bytes <= arena.slot.num_bytes:
            return self._written(packed, arena.slot)
        self._typical_bytes = packed.num_bytes  # the next batch's slot will hold all of it
        result = self._on_host(packed)
        self._host.give_back(arena.slot)
        return result

    def repack(self, batch: Batch, columns: Mapping[str, Any]) -> Batch:
        """On the host a user's tensors are as good as ours; a copy needs them in a slot."""
        columns = {"__key__": batch.columns["__key__"], **columns}
        if self._link is None:
            return replace(batch, columns=columns)
        packed = pack_columns(columns)
        return replace(self._on_host(packed), ids=batch.ids, num_samples=batch.num_samples)

    def transfer(self, batch: Batch) -> Batch:
        if self._link is None or self._device is None or not batch.layout:
            return batch if self._finish is None else self._finished_on_host(batch)
        host: _HostPayload = batch.payload
        layout, num_bytes = batch.layout, host.flat.numel()
        if self._finish is not None:
            self._finish.prepare(self._link)
            made, num_bytes = self._finish.places(batch.layout, num_bytes)
            layout = {**batch.layout, **made}
        slot = self._device.take(num_bytes)
        use = DeviceUse(self._link, self._device)
        flat = self._device.lend(slot, num_bytes, use.end)
        sent = self._link.send(flat[: host.flat.numel()], host.flat, slot.event)
        host.slot.event = use.ready = self._last = sent
        columns = {**batch.columns, **views(flat, layout)}
        if self._finish is not None:
            use.ready = self._last = self._link.follow(
                partial(self._finish.make, views(flat, layout))
            )
            columns = self._finish.result(columns)
        return replace(
            batch,
            columns=columns,
            payload=None,
            ready=use.ready,
            handed_over=use.handed_over,
        )

    def _finished_on_host(self, batch: Batch) -> Batch:
        assert self._finish is not None
        if not batch.layout:
            return batch
        return replace(batch, columns=self._finish.on_host(batch.columns), layout={}, payload=None)

    def close(self) -> None:
        if self._last is not None:  # copies that nobody took need their memory until they end
            self._events.synchronize(self._last)
            self._last = None
        self._arenas.clear()
        self._host.clear()
        if self._device is not None:
            self._device.clear()

    def _take(self, num_bytes: int) -> Slot:
        with self._taking:
            return self._host.take(max(num_bytes, self._typical_bytes))

    def _on_host(self, packed: Packed) -> Batch:
        return self._written(packed, self._take(packed.num_bytes))

    def _written(self, packed: Packed, slot: Slot) -> Batch:
        packed.write(slot.buffer.numpy())
        flat = self._host.lend(slot, packed.num_bytes)
        return Batch(
            columns={**packed.lists, **views(flat, packed.layout)},
            num_samples=len(packed.lists["__key__"]),
            payload=_HostPayload(slot, flat),
            layout=packed.layout,
        )


@dataclass(frozen=True, slots=True)
class _HostPayload:
    slot: Slot
    flat: torch.Tensor


class DeviceUse:
    """The use of one device slot, from its copy to the last of it on the consumer's stream."""

    def __init__(self, link: Link, ring: Ring) -> None:
        self._link = link
        self._ring = ring
        self.ready: Event = None
        """The end of what was enqueued to fill it."""
        self._end_of_use: Callable[[], Event] = lambda: self.ready

    def handed_over(self) -> None:
        self._ring.settle()  # now, before the next step's work is added to the stream
        self._end_of_use = self._link.end_of_use()

    def end(self) -> Event:
        return self._end_of_use()


def _host_slots(link: Link | None, is_shared: bool) -> Callable[[int], Slot]:
    if is_shared:
        return partial(shared_slot, pinning=link, node=getattr(link, "node", None))
    if link is None:
        return private_slot
    return lambda num_bytes: Slot(link.allocate_host(num_bytes))
