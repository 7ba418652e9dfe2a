"""Persistent workers that begin the next epoch: nothing but time may change."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from fakes import loaded as data

Make = Callable[..., Any]
PERSISTENT = {"num_workers": 2, "persistent_workers": True}


def batches(loader: Any) -> list[Any]:
    return [[column.tolist() for column in batch] for batch in loader]


def keyed_loader(ours: Make, num_samples: int, **options: Any) -> Any:
    return ours(
        data.Augmented(num_samples, keyed=True), batch_size=3, shuffle=True, seed=4, **options
    )


@pytest.mark.parametrize("num_samples", [40, 12, 7, 2])  # the last fit into what is prefetched
@pytest.mark.parametrize("drop_last", [False, True])
def test_epochs_are_those_without_workers(ours: Make, num_samples: int, drop_last: bool) -> None:
    reference = keyed_loader(ours, num_samples, drop_last=drop_last)
    loader = keyed_loader(ours, num_samples, drop_last=drop_last, **PERSISTENT)
    epochs = [batches(loader) for _ in range(5)]
    assert epochs == [batches(reference) for _ in range(5)]
    assert num_samples == 2 or len({str(epoch) for epoch in epochs}) == 5


def test_the_next_epoch_is_fetched_before_it_is_asked_for(ours: Make) -> None:
    dataset = data.Asked(8)
    loader = ours(dataset, batch_size=2, shuffle=True, seed=1, **PERSISTENT)
    assert len(list(loader)) == 4
    end = time.monotonic() + 60
    while int(dataset.num_asked) < 16 and time.monotonic() < end:
        time.sleep(0.01)
    assert int(dataset.num_asked) == 16
    assert loader.state_dict()["epoch"] == 0 and loader.state_dict()["finished"]
    assert len(list(loader)) == 4


def test_another_epoch_than_the_next_may_be_asked_for(ours: Make) -> None:
    reference, loader = keyed_loader(ours, 14), keyed_loader(ours, 14, **PERSISTENT)
    found, expected = [], []
    for epoch in (0, 1, 7, 3, 4):
        loader.set_epoch(epoch)
        reference.set_epoch(epoch)
        found.append(batches(loader))
        expected.append(batches(reference))
    assert found == expected


@pytest.mark.parametrize("num_taken", [1, 4, 5])
def test_an_epoch_that_is_left_early_is_followed_by_the_next(ours: Make, num_taken: int) -> None:
    reference, loader = keyed_loader(ours, 14), keyed_loader(ours, 14, **PERSISTENT)
    epochs = [batches(reference) for _ in range(3)]
    iterator = iter(loader)
    assert [batches([next(iterator)]) for _ in range(num_taken)] == [
        [batch] for batch in epochs[0][:num_taken]
    ]
    assert [batches(loader), batches(loader)] == epochs[1:]


def test_a_state_is_resumed_by_running_workers(ours: Make) -> None:
    reference, loader = keyed_loader(ours, 14), keyed_loader(ours, 14, **PERSISTENT)
    epochs = [batches(reference) for _ in range(4)]
    batches(loader)
    iterator = iter(loader)
    next(iterator)
    state = loader.state_dict()
    batches(iterator)
    loader.load_state_dict(state)
    assert [batches(loader) for _ in range(3)] == [epochs[1][1:], epochs[2], epochs[3]]


def test_orders_that_torch_draws_are_not_drawn_early(make: Make) -> None:
    """A sampler without our seed draws from the program's generator when its epoch begins."""
    torch.manual_seed(3)
    loader = make(data.Numbers(20), batch_size=2, shuffle=True, **PERSISTENT)
    found = []
    for _ in range(3):
        found.append([batch.tolist() for batch in loader])
        found.append([torch.rand(2).tolist()])
    torch.manual_seed(3)
    reference = torch.utils.data.DataLoader(
        data.Numbers(20), batch_size=2, shuffle=True, **PERSISTENT
    )
    expected = []
    for _ in range(3):
        expected.append([batch.tolist() for batch in reference])
        expected.append([torch.rand(2).tolist()])
    assert found == expected


def test_errors_of_the_next_epoch_are_raised_in_it(ours: Make) -> None:
    loader = ours(data.Failing(6), batch_size=1, shuffle=True, seed=2, **PERSISTENT)
    for _ in range(3):
        num_errors, num_batches, iterator = 0, 0, iter(loader)
        while True:
            try:
                next(iterator)
                num_batches += 1
            except StopIteration:
                break
            except Exception as error:
                assert "3" in str(error)
                num_errors += 1
        assert (num_batches, num_errors) == (5, 1)
