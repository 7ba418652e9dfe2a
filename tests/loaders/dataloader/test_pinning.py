"""`pin_memory` as torch has it: off without a device, and its thread ends with its iterator."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fakes import loaded as data
from torch.utils.data import TensorDataset

Make = Callable[..., Any]


def test_pinning_without_a_device_is_off_with_a_warning(make: Make) -> None:
    if torch.accelerator.is_available():
        pytest.skip("there is an accelerator")
    dataset = TensorDataset(torch.arange(4.0))
    for num_workers in (0, 1):
        loader = make(dataset, pin_memory=True, num_workers=num_workers)
        with pytest.warns(UserWarning, match="no accelerator is found"):
            assert len(list(loader)) == 4


@pytest.mark.parametrize("persistent_workers", [False, True])
def test_the_thread_that_pins_ends_with_its_iterator(
    make: Make, persistent_workers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On an accelerator that does nothing."""
    accelerator = torch.accelerator
    monkeypatch.setattr(accelerator, "is_available", lambda: True)
    monkeypatch.setattr(accelerator, "current_accelerator", lambda: SimpleNamespace(type="none"))
    monkeypatch.setattr(accelerator, "current_device_index", lambda: 0)
    monkeypatch.setattr(accelerator, "set_device_index", lambda index: None)
    pinned = []
    pin_memory = torch.utils.data._utils.pin_memory
    monkeypatch.setattr(pin_memory, "pin_memory", lambda batch, _: pinned.append(batch) or batch)
    loader = make(
        data.Numbers(6), num_workers=2, pin_memory=True, persistent_workers=persistent_workers
    )
    for _ in range(2):
        iterator = iter(loader)
        thread = iterator._pin_memory_thread
        assert [int(batch) for batch in iterator] == [*range(6)]
    assert sum(isinstance(batch, torch.Tensor) for batch in pinned) == 12
    if persistent_workers:
        iterator._shutdown_workers()
    assert not thread.is_alive()
    iterator = iter(make(data.Numbers(600), num_workers=2, pin_memory=True))
    next(iterator)
    thread = iterator._pin_memory_thread
    iterator._shutdown_workers()
    assert not thread.is_alive()
