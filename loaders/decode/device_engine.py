"""The flow that all engines on a GPU share: headers, who takes what, decode, one kernel.

Stands between the decode stage and a library's decoder.  Invariant: an image that the decoder
does not take, or could not decode, is decoded by the CPU or named as damaged by it; it is
never left out and never grey.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch

from iopipe.errors import DataError, PipelineError
from iopipe.loaders.decode.clips import Videos
from iopipe.loaders.decode.cpu import region_of
from iopipe.loaders.decode.cpu_lane import CpuLane
from iopipe.loaders.decode.detours import Detours
from iopipe.loaders.decode.images import EncodedImage
from iopipe.loaders.decode.on_device import DeviceRows, Layout, Work, finish
from iopipe.loaders.decode.stage import decoded
from iopipe.loaders.decode.wanted import Wanted, what_is_wanted
from iopipe.protocols import Cause, Column, Samples
from iopipe.stages import ImageOptions


class Decoder(Protocol):
    """A library that decodes whole images into device memory; thread-safe."""

    def why_not(self, image: EncodedImage) -> str | None:
        """Why it does not take this image; None where it does."""
        ...

    def share(self, wanted: Wanted, rows: Sequence[int]) -> Sequence[Sequence[int]]:
        """Which of the rows that it takes it wants, by who decodes them; the CPU does the
        others."""
        ...

    def decode(
        self, wanted: Wanted, layout: Layout, packed: torch.Tensor, work: Work
    ) -> Callable[[float], dict[int, str]]:
        """Begin to decode the rows `layout.whole` into `packed`, for use on `work`'s stream.  The
        answer is told how many seconds the CPU took for `layout.cut`, waits, and tells which
        rows could not be decoded, and why."""
        ...

    def notes(self) -> tuple[str, ...]: ...

    def close(self) -> None: ...


_OTHER_THREADS = 2
"""Of this process, beside those that decode: they read, hand over and launch."""

_MAX_SIDE = 65_535
"""Of the image kernel, and of JPEG."""
_MANY = 32
"""Images that can be decoded; a decoder that refuses so many and has decoded none is broken."""


class DeviceEngine:
    """A stage function for one run; for any number of threads, a stream each."""

    def __init__(
        self,
        options: ImageOptions,
        decoder: Decoder,
        device: torch.device,
        *,
        num_threads: int,
        videos: Videos | None = None,
    ) -> None:
        self._options = options
        self._decoder = decoder
        self._videos = videos
        self._device = device
        self._cpu = CpuLane(max(1, num_threads - _OTHER_THREADS))
        self._detours = Detours(options.engine)
        self._local = threading.local()
        self._has_worked = False
        self._num_refused = 0

    @property
    def cause(self) -> Cause:
        return "gpu_decode"

    def __call__(self, samples: Samples) -> Samples:
        return decoded(samples, images=self._images, videos=self._videos)

    def notes(self) -> tuple[str, ...]:
        return (*self._decoder.notes(), *self._detours.notes())

    def close(self) -> None:
        if self._videos is not None:
            self._videos.close()
        self._decoder.close()
        self._cpu.close()

    def _images(self, _: str, column: Column, samples: Samples) -> Column:
        wanted = what_is_wanted(column, samples, self._options)
        _check_sides(wanted)
        work = self._work()
        with work.current():
            rows = finish(work, *self._packed(wanted, work), wanted.mirrored, self._options)
        work.wait()
        return DeviceRows(rows)  # type: ignore[return-value]

    def _packed(self, wanted: Wanted, work: Work) -> tuple[torch.Tensor, Layout]:
        """All images in one buffer: decoded where they are, or sent there."""
        layout = self._layout(wanted)
        packed = work.packed(layout.num_bytes)
        answer = self._decoder.decode(wanted, layout, packed, work)
        seconds = 0.0
        try:
            if layout.cut:
                staged = work.host(layout.num_bytes - layout.begin_of_cut)
                seconds = self._cpu.cut(wanted, layout, staged.numpy())
                place = packed[layout.begin_of_cut : layout.num_bytes]
                place.copy_(staged, non_blocking=True)
        finally:
            reasons = answer(seconds)  # what is read and written must be there until then
        self._replace(wanted, layout, packed, reasons, work)
        return packed, layout

    def _layout(self, wanted: Wanted) -> Layout:
        taken = []
        for row, image in enumerate(wanted.images):
            reason = self._decoder.why_not(image)
            if reason is None:
                taken.append(row)
            else:
                self._detours.add(reason)
        return Layout(wanted, self._decoder.share(wanted, taken))

    def _replace(
        self,
        wanted: Wanted,
        layout: Layout,
        packed: torch.Tensor,
        reasons: dict[int, str],
        work: Work,
    ) -> None:
        """What could not be decoded: by the CPU, region into the place of the whole image."""
        self._has_worked |= len(reasons) < len(layout.whole)
        for row, reason in reasons.items():
            region = np.ascontiguousarray(region_of(wanted, row))
            self._detours.add(reason)
            begin = int(layout.offsets[row])
            packed[begin : begin + region.size].copy_(work.upload(region.reshape(-1)))
            layout.sizes[row] = region.shape[:2]
            layout.crops[row, :2] = 0
        self._num_refused += len(reasons)
        if not self._has_worked and self._num_refused >= _MANY:
            raise PipelineError(
                f"engine {self._options.engine!r} decodes no image here ({min(reasons.values())}), "
                "though the CPU does: use engine='cpu'"
            )

    def _work(self) -> Work:
        if not hasattr(self._local, "work"):
            self._local.work = Work(self._device)
        work: Work = self._local.work
        return work


def _check_sides(wanted: Wanted) -> None:
    (rows,) = np.nonzero(wanted.sizes.max(axis=1) > _MAX_SIDE)
    if len(rows):
        height, width = wanted.sizes[rows[0]].tolist()
        raise DataError(
            f"the image is {width} x {height} pixels; on a GPU a side has {_MAX_SIDE} at most: "
            "use engine='cpu'",
            row=int(rows[0]),
        )
