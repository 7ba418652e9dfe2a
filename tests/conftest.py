"""For all tests: memory that was not written to is poison, not zero by luck."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import settings

_POISON = 0xA5

# How long an example takes says nothing on a machine that is shared.
settings.register_profile("iopipe", deadline=None)
settings.load_profile("iopipe")


@pytest.fixture(autouse=True)
def _poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """`np.empty` and `torch.empty` give bytes of 0xA5: unwritten output cannot pass."""
    monkeypatch.setattr(np, "empty", _poisoned_numpy(np.empty))
    monkeypatch.setattr(torch, "empty", _poisoned_torch(torch.empty))


def _poisoned_numpy(empty: Callable[..., Any]) -> Callable[..., Any]:
    def poisoned(*arguments: Any, **options: Any) -> Any:
        array = empty(*arguments, **options)
        if array.dtype != object and array.flags.c_contiguous:
            array.reshape(-1).view(np.uint8).fill(_POISON)
        return array

    return poisoned


def _poisoned_torch(empty: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    def poisoned(*arguments: Any, **options: Any) -> torch.Tensor:
        tensor = empty(*arguments, **options)
        if tensor.dtype == torch.uint8:
            tensor.fill_(_POISON)
        return tensor

    return poisoned
