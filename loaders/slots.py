"""Buffers that batches travel in, reused instead of allocated.

Stands between collate and the training step.  Invariant: a slot has one owner at a time,
and is written again only after the event that was recorded when its owner let go of it.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from iopipe.protocols import Event, Events

_ROUNDING_BYTES = 1 << 20
"""Slots are this much coarser than what is asked for, so that batches of nearly one size
share them."""


class Slot:
    """One flat buffer; `event` is when its last use ends, None where that is now."""

    __slots__ = ("__weakref__", "buffer", "event", "file")

    def __init__(self, buffer: torch.Tensor, file: Any = None) -> None:
        self.buffer = buffer
        self.file = file
        """What other processes map to share the buffer; None where none may."""
        self.event: Event | None = None

    @property
    def num_bytes(self) -> int:
        return self.buffer.numel()


class Ring:
    """The slots of one kind of memory.

    `take` is for one thread; `give_back` and `settle` may come from any.  A slot that was lent
    comes back from wherever its last tensor is dropped, at any moment: all that happens there
    is a deque's append, which is atomic, takes no lock, and leaves an interrupt of the main
    thread to whoever was interrupted (one that is raised in a Python finalizer is lost).
    """

    def __init__(
        self,
        allocate: Callable[[int], Slot],
        *,
        num_slots: int,
        events: Events | None,
    ) -> None:
        self._allocate = allocate
        self._num_slots = num_slots
        self._events = events
        self._free: deque[Slot] = deque()
        self._lent: dict[int, _Loan] = {}
        self._returned: deque[weakref.ref[_Lease]] = deque()
        self.num_allocated = 0

    def take(self, num_bytes: int) -> Slot:
        """A slot of at least `num_bytes`.

        With `events`: one whose event is done, else a new one while there are fewer than
        `num_slots`, else one whose event is waited for.  Without: any free one, and the
        taker orders what it writes behind `slot.event`.  Where whoever keeps batches holds
        all slots, a new one: to wait for them could be to wait for ever.
        """
        self.settle()
        free = self._fitting(num_bytes)
        slot = next((slot for slot in free if self._is_ready(slot)), None)
        if slot is None and free and self._events and self.num_allocated >= self._num_slots:
            slot = free[0]
            self._events.synchronize(slot.event)
        if slot is None:
            return self._new(num_bytes)
        self._free.remove(slot)
        return slot

    def give_back(self, slot: Slot) -> None:
        """Let go of `slot`; it is written again only after `slot.event`."""
        self._free.append(slot)

    def lend(
        self, slot: Slot, num_bytes: int, end_of_use: Callable[[], Event] | None = None
    ) -> torch.Tensor:
        """The first `num_bytes` of a slot as a uint8 tensor; the slot is given back when the
        last tensor over this memory is gone, with the event that `end_of_use` then gives.

        Source: numpy's array interface and its CUDA twin, version 3, both of which oblige the
        consumer to hold on to the object that exports the memory.
        """
        lease = _Lease(slot, num_bytes)
        ended = weakref.ref(lease, self._returned.append)
        self._lent[id(ended)] = _Loan(ended, slot, end_of_use)
        if slot.buffer.device.type == "cpu":
            return torch.from_numpy(np.asarray(lease))
        return torch.as_tensor(lease, device=slot.buffer.device)

    def settle(self) -> None:
        """Give back every slot whose loan has ended."""
        while self._returned:
            try:
                loan = self._lent.pop(id(self._returned.popleft()), None)
            except IndexError:  # another thread took it
                return
            if loan is None:  # lent before `clear`
                continue
            if loan.end_of_use is not None:
                loan.slot.event = loan.end_of_use()
            self.give_back(loan.slot)

    def _fitting(self, num_bytes: int) -> list[Slot]:
        free = list(self._free)
        for slot in free:
            if slot.num_bytes < num_bytes:
                self._free.remove(slot)
                self.num_allocated -= 1
        return [slot for slot in free if slot.num_bytes >= num_bytes]

    def _is_ready(self, slot: Slot) -> bool:
        return self._events is None or slot.event is None or self._events.done(slot.event)

    def clear(self) -> None:
        """Free what is free; lent slots die with the batches that hold them."""
        self._free.clear()
        self._lent.clear()

    def _new(self, num_bytes: int) -> Slot:
        self.num_allocated += 1
        return self._allocate(-(-num_bytes // _ROUNDING_BYTES) * _ROUNDING_BYTES)


class _Lease:
    """Announces a slot's memory to numpy or torch, which keep this object, and with it the
    slot, alive as long as any array, tensor or autograd graph still needs the memory."""

    def __init__(self, slot: Slot, num_bytes: int) -> None:
        self.slot = slot
        on_host = slot.buffer.device.type == "cpu"
        description: dict[str, Any] = {
            "data": (slot.buffer.data_ptr(), False),
            "shape": (num_bytes,),
            "strides": None,
            "typestr": "|u1",
            "version": 3,
        }
        setattr(self, f"__{'array' if on_host else 'cuda_array'}_interface__", description)


@dataclass(frozen=True, slots=True)
class _Loan:
    ended: weakref.ref[_Lease]
    slot: Slot
    end_of_use: Callable[[], Event] | None
