"""A batch as a short message: its tensors stay in slabs, all else is pickled.

Stands between a worker and the trainer's process.  Invariant: what comes out equals what went
in, types and strides included; tensors that a slab cannot hold travel as torch sends them.
Both ends are processes of one program, so that pickle is as safe as the program is.
"""

from __future__ import annotations

import io
import pickle
import threading
from collections.abc import Sequence
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np
import torch
import torch.multiprocessing.reductions
from torch.utils.data._utils import collate as torch_collate

from iopipe.loaders.workers.slabs import Arena, Mappings

_SHARED_BYTES = 1 << 20
"""Tensors that lie in shared memory already are copied into a slab below this size only."""
_MIN_ARRAY_BYTES = 4096
"""Smaller numpy arrays are pickled."""

_DTYPES = [
    *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.uint16, torch.uint32, torch.uint64),
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
    *(torch.complex64, torch.complex128, torch.bool),
]
_CODES = {dtype: code for code, dtype in enumerate(_DTYPES)}

_reading = threading.local()
"""`.slabs`: the arrays over the slabs of the message that this thread is reading."""


def pack(value: Any, arena: Arena) -> tuple[bytes, set[int]]:
    """The message, and the slabs that it refers to."""
    buffer = io.BytesIO()
    pickler = _Pickler(buffer, arena)
    pickler.dump(value)
    return buffer.getvalue(), pickler.used


def unpack(message: bytes, slabs: Sequence[int], mappings: Mappings) -> Any:
    """`slabs` are the numbers of those that the message refers to."""
    _reading.slabs = {number: mappings.lent(number) for number in slabs}
    try:
        return pickle.loads(message)
    finally:
        del _reading.slabs


class _Pickler(ForkingPickler):
    def __init__(self, buffer: io.BytesIO, arena: Arena) -> None:
        super().__init__(buffer, pickle.HIGHEST_PROTOCOL)
        self._arena = arena
        self.used: set[int] = set()

    def reducer_override(self, value: Any) -> Any:
        """Called for whatever is no plain container, number or string."""
        if type(value) is torch.Tensor:
            plain = value.resolve_conj().resolve_neg()  # bits that torch's own pickling loses
            if _fits(plain):
                return self._reduced(plain)
        if type(value) is np.ndarray and _array_fits(value):
            return _array, (self._reduced(torch.from_numpy(value))[1],)
        return NotImplemented

    def _reduced(self, tensor: torch.Tensor) -> tuple[Any, tuple[Any, ...]]:
        place = self._arena.place(tensor)
        if place is None:
            copy = self._arena.empty((tensor.numel(),), tensor.dtype)
            tensor_like = copy.as_strided(tensor.size(), tensor.stride())
            tensor_like.copy_(tensor)
            place = self._arena.place(copy)
        assert place is not None
        self.used.add(place[0])
        stride = None if tensor.is_contiguous() else tensor.stride()
        return _tensor, (*place, _CODES[tensor.dtype], tuple(tensor.size()), stride)


def _fits(tensor: torch.Tensor) -> bool:
    return (
        tensor.device.type == "cpu"
        and tensor.layout == torch.strided
        and tensor.dtype in _CODES
        and tensor.numel() > 0
        and not (tensor.requires_grad or tensor.is_nested)
        and not (tensor.nbytes >= _SHARED_BYTES and tensor.is_shared())  # type: ignore[no-untyped-call]
        and (tensor.is_contiguous() or _is_dense(tensor))
        and not tensor.__dict__
    )


def _is_dense(tensor: torch.Tensor) -> bool:
    """Whether its elements fill a stretch of memory, in any order of the dimensions."""
    expected = 1
    for size, stride in sorted(
        zip(tensor.size(), tensor.stride(), strict=True), key=lambda pair: (pair[1], pair[0])
    ):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


def _array_fits(array: np.ndarray[Any, np.dtype[Any]]) -> bool:
    return bool(
        array.nbytes >= _MIN_ARRAY_BYTES
        and array.flags.c_contiguous
        and array.flags.writeable
        and array.dtype.isnative
        and array.dtype.kind in "uifcb"
        and array.dtype.itemsize <= 16
        and array.dtype not in (np.dtype(np.longdouble), np.dtype(np.clongdouble))
    )


def _tensor(
    slab: int, offset: int, code: int, size: tuple[int, ...], stride: tuple[int, ...] | None
) -> torch.Tensor:
    count = 1
    for length in size:
        count *= length
    flat = torch.frombuffer(_reading.slabs[slab], dtype=_DTYPES[code], count=count, offset=offset)
    return flat.view(size) if stride is None else flat.as_strided(size, stride)


def _array(arguments: tuple[Any, ...]) -> np.ndarray[Any, np.dtype[Any]]:
    return _tensor(*arguments).numpy()


class SlabCollate:
    """torch's `default_collate`, with tensors stacked where they will be sent from."""

    def __init__(self, arena: Arena) -> None:
        self._map = {**torch_collate.default_collate_fn_map, torch.Tensor: self._stacked}
        self._arena = arena

    def __call__(self, batch: Any) -> Any:
        return torch_collate.collate(batch, collate_fn_map=self._map)

    def _stacked(self, batch: Any, *, collate_fn_map: Any = None) -> torch.Tensor:
        first = batch[0]
        if type(first) is not torch.Tensor or not _can_stack(first):
            stacked: torch.Tensor = torch_collate.collate_tensor_fn(
                batch, collate_fn_map=collate_fn_map
            )
            return stacked
        out = self._arena.empty((len(batch), *first.size()), first.dtype)
        return torch.stack(batch, 0, out=out)


def _can_stack(tensor: torch.Tensor) -> bool:
    return (
        tensor.device.type == "cpu"
        and tensor.layout == torch.strided
        and tensor.dtype in _CODES
        and not (tensor.requires_grad or tensor.is_nested)
    )
