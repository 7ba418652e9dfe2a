"""Batches of any shape, brought to a device ahead of the training loop.

Stands between an iterator of host batches and the training script.  Invariant: all tensors of a
batch travel in one page-locked slot and one copy; the thread that trains never waits for it.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from iopipe.errors import PipelineError
from iopipe.loaders.cuda import CudaLink
from iopipe.loaders.delivery import SlotDelivery
from iopipe.loaders.workers.samplers import EpochProgress
from iopipe.meter.meter import Meter, num_samples_of
from iopipe.meter.spans import Span
from iopipe.protocols import Batch

_NUM_AHEAD = 2


def delivery_for(device: str | None) -> SlotDelivery | None:
    """None where batches stay on the host."""
    if device is None or device == "cpu":
        return None
    if device.split(":")[0] == "cuda":
        return SlotDelivery(CudaLink(device))
    raise PipelineError(f"device {device!r} is unknown; use 'cpu', 'cuda' or 'cuda:N'")


class Mover:
    """The thread that takes batches from `inner` and sends them."""

    def __init__(self, inner: Any, delivery: SlotDelivery, ahead: queue.Queue[Any]) -> None:
        self._ahead = ahead
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=_move,
            args=(inner, delivery, ahead, self._stop),
            name="iopipe-to-device",
            daemon=True,
        )
        self._thread.start()

    def stop(self) -> None:
        """It ends after the batch that it waits for."""
        self._stop.set()

    def join(self) -> None:
        """Stop it and wait until it is through with `inner`; whoever still asks is told so."""
        self.stop()
        self._thread.join()
        with contextlib.suppress(queue.Empty):
            while True:
                self._ahead.get_nowait()
        self._ahead.put(PipelineError("the loader was closed, or is gone through anew"))


class DeviceIter:
    """An iterator over batches on the device; a thread of its own keeps some ahead."""

    def __init__(
        self,
        inner: Any,
        delivery: SlotDelivery,
        *,
        progress: EpochProgress,
        meter: Meter | None,
        on_batch: Callable[[Any], None] | None = None,
    ) -> None:
        """`on_batch`: told of every batch that was handed over and measured."""
        self._on_batch = on_batch
        self._inner = inner
        self._delivery = delivery
        self._progress = progress
        self._meter = meter
        self._ahead: queue.Queue[Any] = queue.Queue(_NUM_AHEAD)
        self._is_over = False
        self.mover = Mover(inner, delivery, self._ahead)
        weakref.finalize(self, self.mover.stop)

    def __iter__(self) -> DeviceIter:
        return self

    def __len__(self) -> int:
        return len(self._inner)

    def __next__(self) -> Any:
        if self._is_over:
            raise StopIteration
        if self._meter is not None:
            self._meter.enter()
        start_ns = time.perf_counter_ns()
        item = self._ahead.get()
        if isinstance(item, BaseException):
            self._is_over = True
            if isinstance(item, StopIteration):
                self._progress.is_finished = True
                if self._meter is not None:
                    self._meter.finish()
            raise item
        moved, batch = item
        if self._meter is not None:
            span = Span("loader", "loader", start_ns, time.perf_counter_ns())
            self._meter.handoff(spans=(span,), ready=moved.ready, num_samples=num_samples_of(batch))
        elif moved.ready is not None:
            self._delivery.events.wait(moved.ready)
        moved.handed_over()
        self._progress.num_yielded += 1
        if self._on_batch is not None:
            self._on_batch(batch)
        return batch


def _move(
    inner: Any, delivery: SlotDelivery, ahead: queue.Queue[Any], stop: threading.Event
) -> None:
    while not stop.is_set():
        try:
            item: Any = to_device(next(inner), delivery)
        except BaseException as error:
            item = error
        while not stop.is_set():
            try:
                ahead.put(item, timeout=0.1)
                break
            except queue.Full:
                continue
        if isinstance(item, BaseException):
            return


def to_device(batch: Any, delivery: SlotDelivery) -> tuple[Batch, Any]:
    """(what the delivery knows of the copy, the batch with its tensors on the device)."""
    leaves, spec = tree_flatten(batch)
    columns = {
        str(number): leaf.detach().contiguous().view(-1).view(torch.uint8)
        for number, leaf in enumerate(leaves)
        if isinstance(leaf, torch.Tensor) and leaf.device.type == "cpu"
    }
    if not any(column.numel() for column in columns.values()):
        columns = {}  # nothing to send, nor room that it could be sent to
    packed = delivery.repack(Batch(columns={"__key__": []}, num_samples=0), columns)
    moved = delivery.transfer(packed)
    return moved, _rebuilt(leaves, spec, moved)


def _rebuilt(leaves: list[Any], spec: TreeSpec, moved: Batch) -> Any:
    for number, leaf in enumerate(leaves):
        if (flat := moved.columns.get(str(number))) is not None:
            leaves[number] = flat.view(leaf.dtype).view(leaf.size())
    return tree_unflatten(leaves, spec)
