"""Marks on the device, with fakes of the classes that torch has for it."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from iopipe.meter.events import HostEvents
from iopipe.profile import torch_hook
from iopipe.profile.fetches import TIMED, TimedBatch, timed_creator, unwrapped
from iopipe.profile.session import Session


@dataclass(slots=True)
class Marks:
    """What a session would be told."""

    seen: list[str] = field(default_factory=list)

    def mark_move(self) -> None:
        self.seen.append("moved")

    def mark_begin(self) -> None:
        self.seen.append("begin")


class FakeTensor:
    """Somewhere: on the host, or on a device."""

    def __init__(self, is_cuda: bool) -> None:
        self.is_cuda = is_cuda

    def to(self, device: str) -> FakeTensor:
        """A copy on `device`; itself where it is there."""
        is_cuda = device == "cuda"
        return self if is_cuda == self.is_cuda else FakeTensor(is_cuda)

    def cuda(self) -> FakeTensor:
        return self.to("cuda")


def _fake_torch(hooks: list[Callable[..., None]], *, is_compiling: bool = False) -> Any:
    class Tensor(FakeTensor):
        pass

    module = SimpleNamespace(register_module_forward_pre_hook=hooks.append)
    return SimpleNamespace(
        Tensor=Tensor,
        nn=SimpleNamespace(modules=SimpleNamespace(module=module)),
        compiler=SimpleNamespace(is_compiling=lambda: is_compiling),
    )


def test_only_a_copy_to_the_device_is_a_move() -> None:
    marks, hooks = Marks(), list[Callable[..., None]]()
    fake = _fake_torch(hooks)
    torch_hook._mark_device_work(fake, marks)
    on_device = fake.Tensor(False).to("cuda")
    assert on_device.is_cuda
    assert marks.seen == ["moved"]
    fake.Tensor(True).to("cuda")
    fake.Tensor(True).to("cpu")
    fake.Tensor(False).to("cpu")
    assert marks.seen == ["moved"]
    hooks[0](None, ())
    assert marks.seen == ["moved", "begin"]


def test_nothing_is_marked_while_torch_compiles() -> None:
    marks, hooks = Marks(), list[Callable[..., None]]()
    torch_hook._mark_device_work(_fake_torch(hooks, is_compiling=True), marks)
    hooks[0](None, ())
    assert marks.seen == []


def test_a_pinned_batch_keeps_its_times() -> None:
    batch = TimedBatch({"x": [1, 2]}, (10, 14, 20, 21), 7)
    again = TimedBatch(*batch.__reduce__()[1])
    assert (again.batch, again.cpu_ns) == ({"x": [1, 2]}, 7)
    assert [(span.cause, span.start_ns, span.end_ns) for span in again.spans()] == [
        ("storage", 10, 14),
        ("decode", 14, 20),
        ("collate", 20, 21),
    ]
    assert unwrapped(again) == {"x": [1, 2]}
    assert unwrapped([again]) == [again]


def test_a_loader_an_epoch_leaves_no_heap_of_them(tmp_path: Path) -> None:
    session = Session(tmp_path, None, HostEvents)
    for epoch in range(20):
        loader = torch.utils.data.DataLoader([0] * (8 if epoch == 3 else 4))
        watched = session.begins(loader)
        batches = iter(loader)
        for _ in range(len(loader)):
            session.next_batch(watched, lambda batches=batches: next(batches))
        watched.meter.finish()
        del loader, batches
    assert len(session.kept) <= 3
    session.write()
    assert len(list(tmp_path.glob("measured-*.json"))) == 1
    session.write()  # once is enough


@pytest.mark.parametrize("takes_one", [False, True])
def test_what_comes_behind_a_loop_that_was_left_is_no_step(tmp_path: Path, takes_one: bool) -> None:
    """A validation behind `break` is not; the step behind `next(iter(loader))` is."""
    now = [0]
    session = Session(tmp_path, None, lambda: HostEvents(lambda: now[0]))
    loader = torch.utils.data.DataLoader([0] * 20)
    for _ in range(4):
        batches = iter(loader)
        watched = session.begins(loader)
        session.ends_with(batches, watched)
        for _ in range(1 if takes_one else 3):
            session.next_batch(watched, lambda batches=batches: next(batches))
            if takes_one:
                del batches
            now[0] += 10
            session.mark_step()
        if not takes_one:
            del batches
            now[0] += 1000
    session.begins(loader)
    assert watched.meter.totals().wall_ns == (40 if takes_one else 120)


class Fetcher:
    """Looks like torch's."""

    def __init__(self) -> None:
        self.collate_fn: Callable[[Any], Any] = list

    def fetch(self, index: list[int]) -> Any:
        return self.collate_fn(index)


def _fetched_once() -> None:
    os.environ[TIMED] = "1"
    batch = timed_creator(Fetcher)().fetch([1, 2])
    assert unwrapped(batch) == [1, 2]


def _num_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_thousand_iterations_take_no_thousand_descriptors() -> None:
    """Without workers every iteration makes a fetcher, in the loop's own process; who forbids
    the garbage collector gets no descriptor back from what refers to itself."""
    _fetched_once()
    gc.collect()
    gc.disable()
    try:
        before = _num_descriptors()
        for _ in range(50):
            _fetched_once()
        assert _num_descriptors() == before
        thread = threading.Thread(target=_fetched_once)
        thread.start()
        thread.join()
    finally:
        gc.enable()
    gc.collect()
    assert _num_descriptors() == before
