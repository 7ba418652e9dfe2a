"""Whether a configuration gives the right bits: before it is timed, never after.

Stands between the tuner, the benchmark and a case.  Invariant: what a run left unwritten
cannot pass, since its outputs are poisoned before it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from iopipe.bench.kernels.cases import Case
from iopipe.errors import DataError
from iopipe.kernels.configs import Config

_POISON = 0xA5


class Verifier:
    """Judges every configuration of a case by its twin and by the first one's bits.

    Raises DataError where the first configuration itself differs from the twin.
    """

    def __init__(self, case: Case, first: Config) -> None:
        self._case = case
        self._expected = case.twin()
        if not self._agrees(first):
            raise DataError(f"{case.kernel.name}, {case.name}: {first} differs from the twin")
        self._bits = [_bytes(t).clone() for t in tensors_of(case.run(first))]

    def fault(self, config: Config) -> str:
        """What is wrong with `config` or its outputs, or ''."""
        from triton.runtime.errors import OutOfResources

        try:
            if not self._agrees(config):
                return "differs from the twin"
        except OutOfResources as error:
            return str(error)
        now = [_bytes(t) for t in tensors_of(self._case.run(config))]
        same = len(now) == len(self._bits) and all(map(torch.equal, now, self._bits))
        return "" if same else "other bits than the heuristic's configuration"

    def _agrees(self, config: Config) -> bool:
        for tensor in tensors_of(self._case.run(config)):
            _bytes(tensor).fill_(_POISON)  # cases write into the same outputs every time
        return self._case.agrees(self._case.run(config), self._expected)


def tensors_of(value: Any) -> Iterator[torch.Tensor]:
    """The tensors in tuples, lists, mappings and dataclasses, in order."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from tensors_of(tuple(value.values()))
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for item in value:
            yield from tensors_of(item)
    elif dataclasses.is_dataclass(value):
        yield from tensors_of([getattr(value, field.name) for field in dataclasses.fields(value)])


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    """The memory of a dense tensor, whatever the order of its dimensions."""
    strides = tensor.stride()
    order = sorted(range(tensor.dim()), key=lambda axis: -strides[axis])
    return tensor.permute(order).view(-1).view(torch.uint8)
