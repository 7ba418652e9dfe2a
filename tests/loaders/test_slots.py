"""Slots are reused, and never too early."""

from __future__ import annotations

import ctypes
import gc
import weakref

import numpy as np
import pytest
import torch
from fakes.link import FakeLink

from iopipe.errors import DataError
from iopipe.loaders.delivery import SlotDelivery
from iopipe.loaders.slots import Ring, Slot
from iopipe.protocols import Samples


def _ring(link: FakeLink, num_slots: int = 2) -> Ring:
    return Ring(lambda n: Slot(link.allocate_host(n)), num_slots=num_slots, events=link)


def _samples(value: int, num_rows: int = 4, width: int = 1000) -> Samples:
    rows = np.full((num_rows, width), value, dtype=np.int32)
    return Samples(
        ids=np.arange(num_rows),
        keys=[f"{value}-{row}" for row in range(num_rows)],
        columns={"x": rows, "note": ["n"] * num_rows},
    )


def test_a_slot_comes_back_when_its_event_is_done() -> None:
    link = FakeLink()
    ring = _ring(link)
    first = ring.take(100)
    first.event = link.record()
    ring.give_back(first)
    second = ring.take(100)
    assert second is not first  # its event is not done, and there is room for another
    link.finish()
    assert ring.take(100) is first
    assert link.num_host_allocations == 2


def test_a_full_ring_waits_for_the_oldest_event() -> None:
    link = FakeLink()
    ring = _ring(link)
    slots = [ring.take(100), ring.take(100)]
    for slot in slots:
        slot.event = link.record()
        ring.give_back(slot)
    assert ring.take(100) is slots[0]
    assert link.num_synchronizations == 1
    assert not slots[1].event.done


def test_a_ring_whose_slots_are_all_kept_grows() -> None:
    link = FakeLink()
    ring = _ring(link)
    kept = [ring.take(100) for _ in range(5)]
    assert len({id(slot) for slot in kept}) == 5


def test_slots_that_became_too_small_are_replaced() -> None:
    link = FakeLink()
    ring = _ring(link)
    ring.give_back(ring.take(1 << 20))
    larger = ring.take((1 << 20) + 1)
    assert larger.num_bytes >= (1 << 20) + 1
    assert ring.num_allocated == 1


def test_lent_memory_comes_back_with_the_last_tensor() -> None:
    ring = _ring(FakeLink())
    slot = ring.take(64)
    slot.buffer[:64] = torch.arange(64)
    tensor = ring.lend(slot, 64)
    view = tensor[8:16].view(torch.int16)
    assert tensor.data_ptr() == slot.buffer.data_ptr()
    del tensor
    gc.collect()
    other = ring.take(64)
    assert other is not slot
    assert view.tolist() == torch.arange(8, 16, dtype=torch.uint8).view(torch.int16).tolist()
    del view
    gc.collect()
    assert ring.take(64) is slot
    assert ring.take(64) not in (slot, other)  # it came back once


def test_lent_memory_outlives_its_python_tensor_in_an_autograd_graph() -> None:
    link = FakeLink()
    ring = _ring(link)
    slot = ring.take(64)
    ended = []
    weight = torch.ones(16, requires_grad=True)
    inputs = ring.lend(slot, 64, lambda: ended.append(1) or link.record()).view(torch.float32)
    loss = (weight * inputs).sum()
    del inputs
    gc.collect()
    ring.settle()
    assert not ended  # backward still needs it
    loss.backward()
    del loss
    gc.collect()
    ring.settle()
    ring.settle()
    assert ended == [1]
    assert slot.event is not None


@pytest.mark.parametrize("is_cleared", [False, True])
def test_lent_memory_outlives_its_ring(is_cleared: bool) -> None:
    ring = _ring(FakeLink())
    slot = ring.take(64)
    memory = weakref.ref(slot)
    tensor = ring.lend(slot, 64)
    tensor.fill_(7)
    del slot
    if is_cleared:
        ring.clear()
    else:
        del ring
    gc.collect()
    assert memory() is not None
    assert tensor.tolist() == [7] * 64
    del tensor
    gc.collect()
    assert memory() is None


def _launch(link: FakeLink, inputs: torch.Tensor, seen: list[set[int]]) -> None:
    """A kernel: it holds the bare address, as the device does, and runs when it runs."""
    kernel_input = (ctypes.c_int32 * inputs.numel()).from_address(inputs.data_ptr())
    link.compute.enqueue(lambda: seen.append(set(kernel_input)))


def _classic_prefetch_loop(link: FakeLink, num_batches: int) -> list[set[int]]:
    """The loop of many tutorials: the next copy is enqueued on a side stream into memory
    that the current step may still read; the step waits for the copy, the copy for nobody."""
    seen: list[set[int]] = []
    device_buffer = torch.empty(4000, dtype=torch.int32)
    for value in range(num_batches):
        host_buffer = torch.full((4000,), value, dtype=torch.int32)
        ready = link.send(device_buffer, host_buffer, None)
        link.run_copies()
        link.wait(ready)
        _launch(link, device_buffer, seen)
    link.finish()
    return seen


def _our_loop(link: FakeLink, num_batches: int) -> list[set[int]]:
    seen: list[set[int]] = []
    delivery = SlotDelivery(link)
    for value in range(num_batches):
        batch = delivery.transfer(delivery.collate(0, [_samples(value)]))
        link.run_copies()
        link.wait(batch.ready)
        batch.handed_over()
        _launch(link, batch.columns["x"], seen)
        del batch
    link.finish()
    return seen


def test_the_classic_prefetch_loop_corrupts_batches_and_ours_does_not() -> None:
    expected = [{value} for value in range(20)]
    assert _classic_prefetch_loop(FakeLink(), 20) != expected
    assert _our_loop(FakeLink(), 20) == expected


def test_slots_are_not_allocated_in_steady_state() -> None:
    link = FakeLink()
    _our_loop(link, 50)
    assert link.num_host_allocations <= 4
    assert link.num_device_allocations == 1  # each batch was gone before the next came


def test_a_host_slot_is_not_written_before_its_copy_is_done() -> None:
    link = FakeLink()
    delivery = SlotDelivery(link)
    batches = [delivery.transfer(delivery.collate(0, [_samples(value)])) for value in range(12)]
    link.finish()  # only now do the copies run that were not waited for
    assert [set(batch.columns["x"].flatten().tolist()) for batch in batches] == [
        {value} for value in range(12)
    ]
    assert link.num_host_allocations == 4
    assert link.num_synchronizations == 8


def test_kept_batches_stay_what_they_were_on_the_host() -> None:
    delivery = SlotDelivery(None)
    batches = [delivery.transfer(delivery.collate(0, [_samples(value)])) for value in range(12)]
    assert [set(batch.columns["x"].flatten().tolist()) for batch in batches] == [
        {value} for value in range(12)
    ]


def test_host_slots_are_reused_when_batches_are_dropped() -> None:
    delivery = SlotDelivery(None)
    addresses = set()
    for value in range(12):
        batch = delivery.transfer(delivery.collate(0, [_samples(value)]))
        addresses.add(batch.columns["x"].data_ptr())
        del batch
    assert len(addresses) == 1


def test_the_slot_of_a_batch_of_which_nothing_is_left_is_used_again() -> None:
    link = FakeLink()
    delivery = SlotDelivery(link)
    for batch in range(9):
        room = delivery.reserve(batch, row=0, num_rows=4)
        room("x", (4, 3), np.dtype(np.int32))
        with pytest.raises(DataError, match="every sample of a batch was left out"):
            delivery.collate(batch, [_samples(0, num_rows=0)])
    assert link.num_host_allocations == 1


def test_types_that_numpy_has_not_come_to_a_device() -> None:
    link = FakeLink()
    delivery = SlotDelivery(link)
    batch = delivery.collate(0, [_samples(3)])
    narrow = batch.columns["x"].to(torch.bfloat16)
    moved = delivery.transfer(delivery.repack(batch, {**batch.columns, "x": narrow}))
    link.finish()
    assert moved.columns["x"].dtype == torch.bfloat16
    assert torch.equal(moved.columns["x"], narrow)


@pytest.mark.parametrize("link", [None, FakeLink()])
def test_a_batch_that_a_function_changed_is_delivered_as_changed(link: FakeLink | None) -> None:
    delivery = SlotDelivery(link)
    batch = delivery.collate(0, [_samples(3), _samples(4)])
    columns = {**batch.columns, "x": batch.columns["x"] * 2, "y": torch.ones(8, 2)}
    batch = delivery.transfer(delivery.repack(batch, columns))
    if link is not None:
        link.finish()
    assert batch.columns["x"][:, 0].tolist() == [6] * 4 + [8] * 4
    assert batch.columns["y"].sum() == 16
    assert batch.columns["note"] == ["n"] * 8
    assert batch.num_samples == 8
