"""Slabs and the messages that refer to them, both ends in one process."""

from __future__ import annotations

import gc
import os
from typing import Any

import numpy as np
import pytest
import torch

from iopipe.loaders.workers.messages import pack, unpack
from iopipe.loaders.workers.slabs import Arena, Mappings


class Channel:
    """A worker's arena and the trainer's mappings in one process."""

    def __init__(self) -> None:
        self.arena = Arena()
        self.freed: list[int] = []
        self.mappings = Mappings(self.freed.append)
        self.num_new = 0

    def send(self, value: Any) -> Any:
        message, used = pack(value, self.arena)
        new, gone = self.arena.finish(used)
        self.num_new += len(new)
        for slab in new:
            self.mappings.add(slab.number, os.dup(slab.fd), slab.num_bytes)
        self.arena.sent(new)
        self.mappings.drop(gone)
        return unpack(message, sorted(used), self.mappings)

    def recycle(self) -> None:
        gc.collect()
        self.arena.give_back(self.freed)
        self.freed.clear()


TENSORS = [
    torch.arange(24).view(2, 3, 4),
    torch.arange(24.0).view(2, 3, 4).transpose(0, 2),
    torch.rand(2, 3, 5, 5).to(memory_format=torch.channels_last),
    torch.rand(7)[::2],
    torch.tensor(3.5),
    torch.tensor(7).expand(4),
    torch.empty(0, 3),
    torch.rand(3).to(torch.bfloat16),
    torch.tensor([True, False]),
    torch.tensor([1 + 2j]),
    torch.tensor([1 + 2j]).conj(),
    torch.tensor([65_535], dtype=torch.uint16),
    torch.eye(3).to_sparse(),
    torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged),
    torch.nn.Parameter(torch.rand(3)),
]


@pytest.mark.filterwarnings("ignore:.*nested tensors.*:UserWarning")
@pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")
@pytest.mark.parametrize("number", range(len(TENSORS)))
def test_tensors_arrive_as_they_were(number: int) -> None:
    tensor = TENSORS[number]
    found = Channel().send({"x": [tensor]})["x"][0]
    assert type(found) is type(tensor) and found.dtype == tensor.dtype
    assert found.layout == tensor.layout and found.requires_grad == tensor.requires_grad
    if tensor.layout == torch.strided and not tensor.is_nested:
        assert found.size() == tensor.size() and found.stride() == tensor.stride()
        assert torch.equal(found, tensor)
    elif tensor.layout == torch.sparse_coo:
        assert torch.equal(found.to_dense(), tensor.to_dense())
    else:
        assert torch.equal(found.values(), tensor.values())


@pytest.mark.parametrize(
    "array",
    [
        np.arange(3000, dtype=np.int16).reshape(30, 100),
        np.arange(4000.0)[::2],
        np.array(["a", None], object),
        np.zeros(2000, dtype=[("a", "i4"), ("b", "f8")]),
        np.arange(2000).astype(">i8"),
    ],
)
def test_arrays_arrive_as_they_were(array: Any) -> None:
    found = Channel().send([array])[0]
    assert found.dtype == array.dtype and found.shape == array.shape
    assert found.flags.writeable and (found == array).all()


def test_a_slab_is_used_again_once_its_last_tensor_is_gone() -> None:
    channel = Channel()
    for _ in range(20):
        batch = channel.send([torch.rand(1000), torch.rand(10)])
        kept = batch[1]
        del batch
        gc.collect()
        assert not channel.freed  # one tensor still lies in it
        del kept
        channel.recycle()
    assert channel.num_new == 1


def test_batches_that_are_kept_are_not_overwritten() -> None:
    channel = Channel()
    kept = []
    for number in range(10):
        kept.append(channel.send(torch.full((1000,), float(number))))
        channel.recycle()
    assert [float(batch.mean()) for batch in kept] == [*range(10)]
    assert channel.num_new == 10


def test_views_and_storages_keep_the_slab() -> None:
    channel = Channel()
    view = channel.send(torch.arange(100))[10:20].numpy()
    gc.collect()
    assert not channel.freed and view[0] == 10


def test_a_larger_batch_gets_a_larger_slab_and_small_ones_go() -> None:
    channel = Channel()
    channel.send(torch.zeros(10))
    channel.recycle()
    channel.send([torch.zeros(1 << 20), torch.zeros(1 << 20)])  # 8 MB, more than one slab has
    channel.recycle()
    channel.send([torch.zeros(1 << 20), torch.zeros(1 << 20)])
    channel.recycle()
    num_new = channel.num_new
    for _ in range(5):
        channel.send([torch.zeros(1 << 20), torch.zeros(1 << 20)])
        channel.recycle()
    assert channel.num_new == num_new
    assert len(channel.arena._slabs) == 1


def test_a_batch_that_failed_leaves_its_slab_free() -> None:
    channel = Channel()
    channel.arena.empty((1000,), torch.float32)
    assert channel.send("an error instead") == "an error instead"
    channel.send(torch.zeros(1000))
    assert channel.num_new == 1
