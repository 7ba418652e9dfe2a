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

from iopipe.loaders.arena import Arena, Layout, Room
from iopipe.loaders.collate import Packed, delivered_ids, pack, pack_columns, views
from iopipe.loaders.shared import shared_slot
from iopipe.loaders.slots import Ring, Slot
from iopipe.meter.events import HostEvents
from iopipe.protocols import Batch, Event, Events, Samples

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

    def end_of_use(self) -> Callable[[], Event]: ...


class SlotDelivery:
    """Makes batches in host slots and, where there is a link, sends them to device slots.

    Batches are on loan: a slot comes back when the last tensor over it is gone, so a user
    may keep batches as long as memory allows.  Without a link the host slot itself is
    handed over.
    """

    def __init__(self, link: Link | None, *, is_shared: bool = False) -> None:
        """With `is_shared` worker processes can write into the host slots."""
        self._link = link
        self._events: Events = HostEvents() if link is None else link.events
        self._host = Ring(_host_slots(link, is_shared), num_slots=_NUM_SLOTS, events=self._events)
        self._lock = threading.Lock()
        self._taking = threading.Lock()
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
        packed = pack(chunks, arena.places)
        if packed.num_bytes <= arena.slot.num_bytes:
            return self._written(packed, arena.slot)
        self._typical_bytes = packed.num_bytes  # the next batch's slot will hold all of it
        result = self._on_host(packed)
        self._host.give_back(arena.slot)
        return result

    def repack(self, batch: Batch, columns: Mapping[str, Any]) -> Batch:
        """On the host a user's tensors are as good as ours; a copy needs them in a slot."""
        if self._link is None:
            return replace(batch, columns=dict(columns))
        packed = pack_columns({"__key__": batch.columns["__key__"], **columns})
        return replace(self._on_host(packed), ids=batch.ids, num_samples=batch.num_samples)

    def transfer(self, batch: Batch) -> Batch:
        if self._link is None or self._device is None or not batch.layout:
            return batch
        host: _HostPayload = batch.payload
        slot = self._device.take(host.flat.numel())
        target = slot.buffer[: host.flat.numel()]
        ready = self._link.send(target, host.flat, slot.event)
        host.slot.event = ready
        use = _DeviceUse(self._link, self._device, ready)
        flat = self._device.lend(slot, host.flat.numel(), use.end)
        return replace(
            batch,
            columns={**batch.columns, **views(flat, batch.layout)},
            payload=None,
            ready=ready,
            handed_over=use.handed_over,
        )

    def close(self) -> None:
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


class _DeviceUse:
    """The use of one device slot, from its copy to the last of it on the consumer's stream."""

    def __init__(self, link: Link, ring: Ring, ready: Event) -> None:
        self._link = link
        self._ring = ring
        self._end_of_use: Callable[[], Event] = lambda: ready

    def handed_over(self) -> None:
        self._ring.settle()  # now, before the next step's work is added to the stream
        self._end_of_use = self._link.end_of_use()

    def end(self) -> Event:
        return self._end_of_use()


def _host_slots(link: Link | None, is_shared: bool) -> Callable[[int], Slot]:
    if is_shared:
        return partial(shared_slot, pinning=link)
    if link is None:
        return lambda num_bytes: Slot(torch.empty(num_bytes, dtype=torch.uint8))
    return lambda num_bytes: Slot(link.allocate_host(num_bytes))
