"""Decoded images on a device become the rows of a batch: one kernel for all engines.

Stands behind the decoders that put pixels on a GPU.  Invariant: whoever decoded an image, the
same launch crops, resizes and mirrors it; what is handed on is done, so nobody waits for it on
the device.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from iopipe.loaders.decode.images import Pixels
from iopipe.loaders.decode.wanted import Wanted
from iopipe.protocols import BoolArray, Int64Array
from iopipe.stages import ImageOptions

CHANNELS = 3

_ROUNDING_BYTES = 16 << 20
"""Batches of nearly one size take the same memory again, and the kernel's compiler, which makes
another kernel for sizes that are no multiple of 16, sees none."""


@dataclass(frozen=True, slots=True)
class DeviceRows:
    """A column that a stage made on a device; complete."""

    tensor: torch.Tensor
    """[n, ...]"""

    def __len__(self) -> int:
        return len(self.tensor)


class Work:
    """A stream of one device, for one thread; on 'cpu', for tests, there is none."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        on_gpu = device.type == "cuda"
        self.stream: Any = torch.cuda.Stream(device) if on_gpu else None  # type: ignore[no-untyped-call]

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """What is enqueued inside goes to the stream, memory made inside belongs to it."""
        if self.stream is None:
            yield
            return
        with torch.cuda.device(self.device), torch.cuda.stream(self.stream):
            yield

    def packed(self, num_bytes: int) -> torch.Tensor:
        """Room for so many bytes at least, on the device."""
        num_bytes = -(-num_bytes // _ROUNDING_BYTES) * _ROUNDING_BYTES
        return torch.empty(num_bytes, dtype=torch.uint8, device=self.device)

    def host(self, num_bytes: int) -> torch.Tensor:
        """Page-locked where there is a device to copy to; torch keeps it until that is done."""
        if self.stream is None:
            return torch.empty(num_bytes, dtype=torch.uint8)
        with torch.cuda.device(self.device):  # else it makes a context on GPU 0 as well
            return torch.empty(num_bytes, dtype=torch.uint8, pin_memory=True)

    def upload(self, array: npt.NDArray[Any]) -> torch.Tensor:
        """The array on the device."""
        flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        staged = self.host(len(flat))
        staged.numpy()[:] = flat
        kind = torch.from_numpy(np.empty(0, array.dtype)).dtype
        return staged.to(self.device, non_blocking=True).view(kind).view(array.shape)

    def wait(self) -> None:
        """Block until all that was enqueued is done."""
        if self.stream is not None:
            self.stream.synchronize()


class Layout:
    """Where each image lies in one packed buffer: whole ones first, group by group, then the
    regions of the others."""

    def __init__(self, wanted: Wanted, groups: Sequence[Sequence[int]]) -> None:
        """`groups`: the rows that are decoded whole, by who does it."""
        self.groups = groups
        self.whole = [row for rows in groups for row in rows]
        self.cut = sorted({*range(len(wanted))} - {*self.whole})
        self.sizes = wanted.sizes.copy()
        self.sizes[self.cut] = wanted.boxes[self.cut, 2:]
        num_bytes = CHANNELS * self.sizes.prod(axis=1)
        order = [*self.whole, *self.cut]
        ends = np.cumsum(num_bytes[order])
        self.offsets = np.zeros(len(wanted), np.int64)
        self.offsets[order] = ends - num_bytes[order]
        self.num_bytes = int(ends[-1]) if len(order) else 0
        self.begin_of_cut = int(num_bytes[self.whole].sum())
        self.crops = wanted.boxes.copy()
        self.crops[self.cut, :2] = 0
        self._lengths = num_bytes

    def span(self, row: int) -> tuple[int, int]:
        """First byte and the one behind the last."""
        begin = int(self.offsets[row])
        return begin, begin + int(self._lengths[row])

    def view(self, row: int, flat: npt.NDArray[np.uint8], *, first: int = 0) -> Pixels:
        """The pixels of a row in a buffer that begins at byte `first` of the packed one."""
        begin, end = self.span(row)
        height, width = self.sizes[row].tolist()
        return flat[begin - first : end - first].reshape(height, width, CHANNELS)


class Placed(Protocol):
    """Images in one packed buffer, row by row."""

    offsets: Int64Array
    """[n]: the first byte of each."""
    sizes: Int64Array
    """[n, 2]: height, width."""
    crops: Int64Array
    """[n, 4]: the region of each that is kept; top, left, height, width."""


def finish(
    work: Work, packed: torch.Tensor, placed: Placed, mirrored: BoolArray, options: ImageOptions
) -> torch.Tensor:
    """[n, height, width, 3]: every row cropped, resized, mirrored and, where `options` say so,
    normalised, on `work`'s stream."""
    from iopipe.kernels import image_batch
    from iopipe.kernels.image import transform_images

    made = transform_images(
        image_batch.PackedImages(
            data=packed,
            offsets=work.upload(placed.offsets),
            heights=work.upload(placed.sizes[:, 0].astype(np.int32)),
            widths=work.upload(placed.sizes[:, 1].astype(np.int32)),
            channels=CHANNELS,
        ),
        image_batch.ImageParameters(
            crops=work.upload(placed.crops.astype(np.int32)),
            flips=work.upload(mirrored),
        ),
        target_of(options),
    )
    return made.permute(0, 2, 3, 1)


def target_of(options: ImageOptions) -> Any:
    """The kernel's options; `PipelineError` where it has no such target."""
    from iopipe.kernels import image_batch

    assert options.size is not None
    target = image_batch.ImageOptions(
        height=options.size[0],
        width=options.size[1],
        dtype=getattr(torch, options.dtype),
        channels_last=True,
        mean=options.mean,
        std=options.std,
    )
    target.check(CHANNELS)
    return target


def contents_of(wanted: Wanted, rows: Sequence[int]) -> list[npt.NDArray[np.uint8]]:
    """The encoded bytes of these rows, not copied."""
    return [np.frombuffer(wanted.images[row].content, np.uint8) for row in rows]
