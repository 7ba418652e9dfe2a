"""What is our own in workers: memory, and what is measured."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import psutil
import pytest
import torch
from fakes import loaded as data

import iopipe

Make = Callable[..., Any]


def test_nothing_is_left_in_shared_memory(ours: Make) -> None:
    before = set(os.listdir("/dev/shm"))
    loader = ours(data.Kinds(40), batch_size=4, num_workers=2)
    iterator = iter(loader)
    for _ in range(5):
        next(iterator)
        assert set(os.listdir("/dev/shm")) - before == set() or all(
            name.startswith("sem.") for name in set(os.listdir("/dev/shm")) - before
        )
    del iterator


def test_descriptors_do_not_grow_with_batches(ours: Make) -> None:
    loader = ours(data.Kinds(400), batch_size=4, num_workers=1, persistent_workers=True)
    list(loader)
    before = len(os.listdir("/proc/self/fd"))
    kept = list(loader)
    assert len(kept) == 100
    assert len(os.listdir("/proc/self/fd")) <= before + 2
    loader.close()


def test_kept_batches_hold_no_descriptors() -> None:
    loader = iopipe.DataLoader(data.Numbers(40), num_workers=1)
    process = psutil.Process()
    iterator = iter(loader)
    kept = [next(iterator)]
    before = process.num_fds()
    (worker,) = iterator._workers
    worker_before = psutil.Process(worker.pid).num_fds()
    kept += [next(iterator) for _ in range(30)]
    assert process.num_fds() <= before
    assert psutil.Process(worker.pid).num_fds() <= worker_before + 1  # one may be under way
    assert [int(batch[0]) for batch in kept] == list(range(31))
    del iterator


@pytest.mark.filterwarnings("ignore:.*nested tensors.*:UserWarning")
def test_old_nested_tensors_are_refused_as_torch_does(make: Make) -> None:
    samples = [torch.nested.nested_tensor([torch.ones(2)]) for _ in range(4)]
    loader = make(samples, batch_size=2, num_workers=1)
    with pytest.raises(RuntimeError, match="not currently supported by the default collate_fn"):
        next(iter(loader))


@pytest.mark.filterwarnings("ignore:.*nested tensors.*:UserWarning")
@pytest.mark.parametrize("num_workers", [0, 1])
def test_old_nested_tensors_pass_a_collate_function(make: Make, num_workers: int) -> None:
    samples = [torch.nested.nested_tensor([torch.full((2,), float(i))]) for i in range(4)]
    loader = make(samples, batch_size=2, num_workers=num_workers, collate_fn=data.first_clone)
    assert [float(batch.unbind()[0][0]) for batch in loader] == [0.0, 2.0]


def test_the_loader_says_what_the_loop_waited_for(ours: Make) -> None:
    loader = ours(data.Sleepy(6, slow=3, seconds=0.5), num_workers=1)
    list(loader)
    report = loader.report()
    assert report.num_steps == 5 and report.attributed_stall_seconds > 0.3
    assert set(report.causes) >= {"loader"}
    quiet = ours(data.Numbers(3), meter=False)
    list(quiet)
    with pytest.raises(iopipe.PipelineError, match="nothing was measured"):
        quiet.report()
