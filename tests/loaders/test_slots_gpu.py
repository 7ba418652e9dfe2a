"""Slots and transfer on a real device: what the fake device shows, shown again."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import iopipe
from iopipe.loaders.cuda import CudaLink
from iopipe.loaders.delivery import SlotDelivery
from iopipe.loaders.shared import shared_slot
from iopipe.protocols import Samples

pytestmark = pytest.mark.gpu

NUM_BATCHES = 30
WIDTH = 1 << 20
SLEEP_CYCLES = 2_000_000  # about a millisecond: the compute stream falls behind


def _classic_prefetch_loop() -> list[int]:
    """Copies on a side stream; each batch's memory returns to that stream's pool when its
    tensor is dropped, though the training step has not read it yet."""
    copy_stream = torch.cuda.Stream()
    hosts = [torch.full((WIDTH,), n, dtype=torch.int32).pin_memory() for n in range(NUM_BATCHES)]
    sums = []
    for host in hosts:
        with torch.cuda.stream(copy_stream):
            batch = host.to("cuda", non_blocking=True)
        torch.cuda.current_stream().wait_stream(copy_stream)
        torch.cuda._sleep(SLEEP_CYCLES)
        sums.append(batch.sum())
        del batch
    return [int(value) // WIDTH for value in sums]


def _our_loop(delivery: SlotDelivery) -> list[int]:
    sums = []
    for number in range(NUM_BATCHES):
        rows = np.full((1, WIDTH), number, dtype=np.int32)
        samples = Samples(ids=np.arange(1), keys=["k"], columns={"x": rows})
        batch = delivery.transfer(delivery.collate(number, [samples]))
        delivery.events.wait(batch.ready)
        batch.handed_over()
        torch.cuda._sleep(SLEEP_CYCLES)
        sums.append(batch.columns["x"].sum())
        del batch
    return [int(value) // WIDTH for value in sums]


def test_the_classic_prefetch_loop_corrupts_batches_and_ours_does_not() -> None:
    expected = list(range(NUM_BATCHES))
    assert _classic_prefetch_loop() != expected
    assert _our_loop(SlotDelivery(CudaLink("cuda"))) == expected


def test_host_slots_are_pinned_and_nothing_is_allocated_in_steady_state() -> None:
    delivery = SlotDelivery(CudaLink("cuda"))
    for _ in range(2):
        _our_loop(delivery)
    before = torch.cuda.memory_stats()["num_device_alloc"]
    assert _our_loop(delivery) == list(range(NUM_BATCHES))
    assert torch.cuda.memory_stats()["num_device_alloc"] == before
    # How many of the four were needed depends on how far the copies fell behind.
    assert delivery._host.num_allocated <= 4
    assert delivery._host.take(1).buffer.is_pinned()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_run_on_the_device_delivers_what_the_host_delivers(
    num_workers: int, tmp_path: Path
) -> None:
    with iopipe.DatasetWriter(tmp_path) as writer:
        for number in range(64):
            raw = io.BytesIO()
            color = (number * 3, 255 - number * 3, number)
            Image.new("RGB", (90 + number, 80), color).save(raw, "JPEG")
            writer.write({"__key__": str(number), "jpg": raw.getvalue(), "cls": number})
    pipeline = iopipe.read(tmp_path).shuffle(1).decode(size=32, crop="random", flip=True).batch(10)
    on_device = pipeline.workers(num_workers).to("cuda")
    with pipeline.run(num_epochs=3) as host, on_device.run(num_epochs=3) as device:
        for expected, batch in zip(host, device, strict=True):
            assert batch["jpg"].is_cuda
            assert batch["__key__"] == expected["__key__"]
            assert torch.equal(batch["jpg"].cpu(), expected["jpg"])
            assert torch.equal(batch["cls"].cpu(), expected["cls"])
        report = device.report()
    assert report.compute_stream.startswith("cuda")
    assert report.num_steps == 3 * 7 - 1


def test_a_slot_that_workers_share_is_page_locked_until_it_goes() -> None:
    slot = shared_slot(1 << 20, pinning=CudaLink("cuda"))
    assert slot.buffer.is_pinned()
    slot.buffer.fill_(7)
    device = torch.zeros(1 << 20, dtype=torch.uint8, device="cuda")
    device.copy_(slot.buffer, non_blocking=True)
    torch.cuda.synchronize()
    assert int(device.min()) == int(device.max()) == 7
    for _ in range(50):  # a page-lock that outlived its memory would be met again
        assert shared_slot(1 << 20, pinning=CudaLink("cuda")).buffer.is_pinned()


def test_kept_device_batches_stay_what_they_were() -> None:
    delivery = SlotDelivery(CudaLink("cuda"))
    batches = []
    for number in range(12):
        rows = np.full((2, 1000), number, dtype=np.int64)
        samples = Samples(ids=np.arange(2), keys=["a", "b"], columns={"x": rows})
        batch = delivery.transfer(delivery.collate(number, [samples]))
        delivery.events.wait(batch.ready)
        batch.handed_over()
        batches.append(batch.columns["x"])
    assert [int(batch.min()) for batch in batches] == list(range(12))
    assert [int(batch.max()) for batch in batches] == list(range(12))
