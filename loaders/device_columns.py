"""A delivery that also carries columns which a stage made on the device.

Stands around the slots.  Invariant: such a column is never copied and never on the host; its
memory is not used again before the stream that got the batch is done with it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from iopipe.loaders.decode.on_device import DeviceRows
from iopipe.protocols import Allocate, Batch, Events, Samples, Source, Store
from iopipe.stages import Delivery


class DeviceColumns:
    """What `delivery` does, for everything else."""

    def __init__(self, delivery: Delivery) -> None:
        self._inner = delivery

    @property
    def events(self) -> Events:
        return self._inner.events

    def reader(self, source: Source, store: Store) -> Callable[[Samples], Samples] | None:
        return self._inner.reader(source, store)

    def reserve(self, batch: Hashable, *, row: int, num_rows: int) -> Allocate:
        return self._inner.reserve(batch, row=row, num_rows=num_rows)

    def collate(self, batch: Hashable, chunks: Sequence[Samples]) -> Batch:
        on_device = _joined(chunks)
        if on_device:
            chunks = [_without(chunk, on_device) for chunk in chunks]
        return replace(self._inner.collate(batch, chunks), on_device=on_device)

    def repack(self, batch: Batch, columns: Mapping[str, Any]) -> Batch:
        return replace(self._inner.repack(batch, columns), on_device=batch.on_device)

    def transfer(self, batch: Batch) -> Batch:
        sent = self._inner.transfer(batch)
        if not batch.on_device:
            return sent
        return replace(
            sent,
            columns={**sent.columns, **batch.on_device},
            on_device={},
            handed_over=partial(_handed_over, sent.handed_over, list(batch.on_device.values())),
        )

    def close(self) -> None:
        self._inner.close()


def _joined(chunks: Sequence[Samples]) -> dict[str, torch.Tensor]:
    """By column; of several chunks the rows are put behind each other."""
    parts: dict[str, list[torch.Tensor]] = {}
    for chunk in chunks:
        for name, column in chunk.columns.items():
            if isinstance(column, DeviceRows):
                parts.setdefault(name, []).append(column.tensor)
    return {name: _cat(found) for name, found in parts.items()}


def _cat(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    if len(parts) == 1:
        return parts[0]
    joined = torch.cat(list(parts))
    if joined.is_cuda:  # complete, as its parts were
        torch.cuda.current_stream(joined.device).synchronize()
    return joined


def _without(chunk: Samples, names: Mapping[str, Any]) -> Samples:
    return chunk.made({name: one for name, one in chunk.columns.items() if name not in names})


def _handed_over(inner: Callable[[], None], tensors: Sequence[torch.Tensor]) -> None:
    """In the consumer's thread, whose current stream will use the tensors."""
    inner()
    for tensor in tensors:
        if tensor.is_cuda:
            tensor.record_stream(torch.cuda.current_stream(tensor.device))
