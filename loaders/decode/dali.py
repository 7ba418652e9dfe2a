"""The engine 'dali': NVIDIA DALI decodes, behind our readers, order and draws.

Stands under the decode stage ('cpu' device: regions, resized by our own code) and under
`device_engine` ('mixed' device: whole images, by the JPEG engine and nvJPEG).  Invariant: DALI
is given views of the bytes that were read, which stay where they are until it is done.

DALI only decodes.  Its resize filters otherwise at the region's borders, further than one unit
from exact arithmetic, so resizing is ours on both devices; on the CPU its regions equal those of
a full decode, bit by bit.

An image that DALI cannot decode fails its whole batch, without saying which one it was: that
batch is decoded by the CPU, which names the damaged image.  Where the CPU finds nothing wrong
and DALI has decoded nothing yet, it does not work here, and that is an error.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from iopipe.errors import PipelineError
from iopipe.loaders.decode.clips import Videos
from iopipe.loaders.decode.cpu import fill_rows
from iopipe.loaders.decode.dali_graph import Failed, Graphs
from iopipe.loaders.decode.detours import Detours, why_not_by_jpeg_decoder
from iopipe.loaders.decode.images import EncodedImage
from iopipe.loaders.decode.on_device import CHANNELS, Layout, Work
from iopipe.loaders.decode.resize import crop_and_resize
from iopipe.loaders.decode.stage import decoded
from iopipe.loaders.decode.wanted import Wanted, what_is_wanted
from iopipe.protocols import Cause, Column, Samples
from iopipe.stages import ImageOptions


class DaliOnHost:
    """A stage function for one run without a GPU; for any number of threads."""

    def __init__(
        self, options: ImageOptions, *, num_threads: int, videos: Videos | None = None
    ) -> None:
        self._options = options
        self._videos = videos
        self._graphs = Graphs(torch.device("cpu"), num_threads)
        self._detours = Detours("dali")
        self._has_worked = False

    @property
    def cause(self) -> Cause:
        return "decode"

    def __call__(self, samples: Samples) -> Samples:
        return decoded(samples, images=self._images, videos=self._videos)

    def notes(self) -> tuple[str, ...]:
        return self._detours.notes()

    def close(self) -> None:
        if self._videos is not None:
            self._videos.close()
        self._graphs.close()

    def _images(self, name: str, column: Column, samples: Samples) -> Column:
        assert self._options.size is not None
        wanted = what_is_wanted(column, samples, self._options)
        result = samples.empty(name, (*self._options.size, 3), np.uint8)
        rows = []
        for row, image in enumerate(wanted.images):
            reason = why_not_by_jpeg_decoder(image)
            if reason is None:
                rows.append(row)
            else:
                self._detours.add(reason)
        fill_rows(wanted, sorted({*range(len(wanted))} - {*rows}), result)
        if rows:
            self._by_dali(wanted, rows, result)
        return result

    def _by_dali(self, wanted: Wanted, rows: Sequence[int], result: Any) -> None:
        try:
            regions = self._graphs.run(wanted, rows, lambda images: images)
        except Failed as error:
            fill_rows(wanted, rows, result)  # raises where an image is damaged
            if not self._has_worked:
                raise PipelineError(
                    f"DALI decodes no image here ({error}), though the CPU does: use engine='cpu'"
                ) from error
            self._detours.add(f"DALI refused their batch: {error}", len(rows))
            return
        self._has_worked = True
        for place, row in enumerate(rows):
            region = np.asarray(regions.at(place))
            height, width = wanted.boxes[row, 2:].tolist()
            if region.shape != (height, width, CHANNELS):
                self._detours.add("DALI made an image of another shape than its header says")
                fill_rows(wanted, [row], result)
                continue
            box = (0, 0, height, width)
            crop_and_resize(region, box, result[row], mirrored=bool(wanted.mirrored[row]))


class DaliOnDevice:
    """A `Decoder` on a GPU."""

    def __init__(self, device: torch.device, *, num_threads: int) -> None:
        self._graphs = Graphs(device, num_threads)

    def why_not(self, image: EncodedImage) -> str | None:
        return why_not_by_jpeg_decoder(image)

    def share(self, wanted: Wanted, rows: Sequence[int]) -> Sequence[Sequence[int]]:
        return [rows]

    def decode(
        self, wanted: Wanted, layout: Layout, packed: torch.Tensor, work: Work
    ) -> Callable[[float], dict[int, str]]:
        if not layout.whole:
            return lambda _: {}
        stream = ctypes.c_void_p(work.stream.cuda_stream)

        shapes = [(*layout.sizes[row].tolist(), CHANNELS) for row in layout.whole]

        def take(images: Any) -> None:
            """Densely, in the order of the batch, which is that of the layout."""
            if [tuple(shape) for shape in images.shape()] != shapes:
                raise Failed("it made images of other shapes than their headers say")
            target = ctypes.c_void_p(packed.data_ptr())
            images.copy_to_external(target, stream, non_blocking=True, use_copy_kernel=True)

        try:
            self._graphs.run(wanted, layout.whole, take, work.stream)
        except Failed as error:
            failed = dict.fromkeys(layout.whole, f"DALI refused their batch: {error}")
            return lambda _: failed
        return lambda _: {}

    def notes(self) -> tuple[str, ...]:
        if self._graphs.load is None:
            return ()
        return (f"engine 'dali': hw_decoder_load {self._graphs.load}, the fastest measured",)

    def close(self) -> None:
        self._graphs.close()
