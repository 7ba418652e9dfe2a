"""Batches that are brought to a device: over a fake link here, to a real one where there is one."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from fakes import loaded as data
from fakes.link import FakeLink

import iopipe
from iopipe.loaders.delivery import SlotDelivery
from iopipe.loaders.workers.device import DeviceIter, to_device
from iopipe.loaders.workers.samplers import EpochProgress
from iopipe.meter.meter import Meter


def moved(loader: Any) -> tuple[DeviceIter, EpochProgress, FakeLink]:
    progress, link = EpochProgress(), FakeLink()
    iterator = DeviceIter(iter(loader), SlotDelivery(link), progress=progress, meter=Meter(link))
    return iterator, progress, link


def test_batches_keep_their_structure_and_their_values() -> None:
    expected = list(torch.utils.data.DataLoader(data.Kinds(10), batch_size=4))
    iterator, progress, link = moved(iopipe.DataLoader(data.Kinds(10), batch_size=4, num_workers=1))
    found = list(iterator)
    link.finish()
    assert progress.num_yielded == 3 and progress.is_finished
    for one, other in zip(found, expected, strict=True):
        assert list(one) == list(other) and one["text"] == other["text"]
        assert type(one["pair"]) is data.Pair and torch.equal(one["pair"].x, other["pair"].x)
        for name in ("tensor", "array", "scalar", "number", "float"):
            assert one[name].dtype == other[name].dtype and torch.equal(one[name], other[name])


def test_empty_tensors_go_where_the_others_go() -> None:
    """An image without boxes, say, whose boxes are joined with others on the device."""
    link = FakeLink()
    delivery = SlotDelivery(link)
    batch = {"boxes": torch.empty(0, 4), "labels": torch.arange(3), "none": torch.empty(2, 0)}
    _, found = to_device(dict(batch), delivery)
    link.finish()
    place = found["labels"].untyped_storage().data_ptr()
    for name, tensor in batch.items():
        assert torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype
        assert found[name].untyped_storage().data_ptr() == place
    _, alone = to_device({"boxes": torch.empty(0, 4)}, delivery)
    assert alone["boxes"].shape == (0, 4)


def test_errors_come_after_the_batches_before_them() -> None:
    iterator, progress, link = moved(iopipe.DataLoader(data.Failing(8), num_workers=1))
    seen = []
    with pytest.raises(KeyError, match="sample 4 is broken"):
        for batch in iterator:
            link.finish()
            seen.append(int(batch))
    assert seen == [0, 1, 2, 3] and progress.num_yielded == 4
    assert list(iterator) == []


def test_an_iterator_that_is_dropped_stops_its_thread() -> None:
    iterator, _, _ = moved(iopipe.DataLoader(data.Numbers(1000)))
    next(iterator)
    thread = iterator.mover._thread
    del iterator
    thread.join(10)
    assert not thread.is_alive()


class Gated(data.Numbers):
    """Sample 3 is not there before the gate is open."""

    gate = threading.Event()

    def __getitem__(self, index: int) -> int:
        assert index != 3 or self.gate.wait(60)
        return index


def test_persistent_workers_are_asked_by_one_iteration_at_a_time() -> None:
    """Though the one that was left early still waits for a batch."""
    Gated.gate.clear()
    loader: Any = iopipe.DataLoader(
        Gated(8), num_workers=1, persistent_workers=True, worker_mode="thread"
    )
    link = FakeLink()
    loader._delivery = SlotDelivery(link)
    for left_by in (next, lambda iterator: [next(iterator), next(iterator)]):
        left = iter(loader)
        left_by(left)
        timer = threading.Timer(0.1, Gated.gate.set)
        timer.start()
        found = []
        for batch in loader:
            link.finish()
            found.append(int(batch))
        assert found == [*range(8)]
        with pytest.raises(iopipe.PipelineError, match="gone through anew"):
            next(left)
        timer.join()
    loader.close()


@pytest.mark.gpu
@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_arrive_on_the_gpu(num_workers: int) -> None:
    loader = iopipe.DataLoader(data.Kinds(40), batch_size=4, num_workers=num_workers, device="cuda")
    expected = list(torch.utils.data.DataLoader(data.Kinds(40), batch_size=4))
    found = list(loader)
    assert len(found) == 10 and loader.state_dict()["num_yielded"] == 10
    for one, other in zip(found, expected, strict=True):
        assert one["tensor"].is_cuda and torch.equal(one["tensor"].cpu(), other["tensor"])
        assert one["pair"].x.is_cuda and torch.equal(one["pair"].x.cpu(), other["pair"].x)
    assert loader.report().compute_stream.startswith("cuda")
