"""Clips of videos by the engine 'dali', on the CPU or by the GPU's video decoder.

Stands under the decode stage, beside the images of the same engine.  Invariant: DALI is given
views of the bytes that were read, which stay where they are until it is done; it decodes the
frames that it is told and nothing else.  Resizing is ours on both devices, as for images.

On the CPU DALI has FFmpeg's decoders of VP8, VP9 and Motion JPEG, on a GPU those and H.264, H.265,
AV1 and MPEG-4 (NVDEC).  What is known to be missing is said with the video's codec.

The CPU's frames become RGB by ITU-R BT.601, whatever the file says of its colours, with the range
that it says; chroma is interpolated bilinearly.  The GPU converts by a kernel of DALI's own.

DALI fails a batch without saying which video it was, so that batch is decoded again, video by
video.  It sees what keeps it from decoding a frame; bits that changed within one may go unseen, as
with every such decoder: checksums (`iopipe verify`) find those.

Source: https://docs.nvidia.com/deeplearning/dali, fn.decoders.video of version 2.4.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from iopipe.errors import DataError
from iopipe.loaders.decode.clips import WantedClips, what_is_wanted
from iopipe.loaders.decode.dali_graph import Failed, Feeds, Graph, built, library
from iopipe.loaders.decode.on_device import CHANNELS, DeviceRows, Work, finish
from iopipe.loaders.decode.resize import crop_and_resize
from iopipe.loaders.decode.tracks import EncodedVideo
from iopipe.protocols import Column, Int64Array, Samples
from iopipe.stages import Clip, ImageOptions

_ON_GPU_ONLY = ("av1", "h264", "hevc")


class VideosOnHost:
    """`Videos` without a GPU; the frames are written into the batch's slot."""

    def __init__(self, options: ImageOptions, *, num_threads: int) -> None:
        assert options.clip is not None
        self._options = options
        self._clip = options.clip
        self._graphs = _VideoGraphs(options.clip, torch.device("cpu"), num_threads)

    def __call__(self, name: str, column: Column, samples: Samples) -> Column:
        assert self._options.size is not None
        wanted = what_is_wanted(column, samples, self._options)
        for row, video in enumerate(wanted.videos):
            _check_codec(video, row)
        shape = (self._clip.num_frames, *self._options.size, CHANNELS)
        result = samples.empty(name, shape, np.uint8)
        for rows, clips in self._graphs.decode(wanted, lambda _, clips: clips):
            for place, row in enumerate(rows):
                box, mirrored = wanted.boxes[row].tolist(), bool(wanted.mirrored[row])
                for frame, target in zip(np.asarray(clips.at(place)), result[row], strict=True):
                    crop_and_resize(frame, box, target, mirrored=mirrored)
        return result

    def close(self) -> None:
        self._graphs.close()


class VideosOnDevice:
    """`Videos` on a GPU: all frames of a chunk are finished by one launch."""

    def __init__(self, options: ImageOptions, device: torch.device, *, num_threads: int) -> None:
        assert options.clip is not None
        self._options = options
        self._clip = options.clip
        self._device = device
        self._graphs = _VideoGraphs(options.clip, device, num_threads)
        self._local = threading.local()

    def __call__(self, name: str, column: Column, samples: Samples) -> Column:
        wanted = what_is_wanted(column, samples, self._options)
        frames = _Frames(wanted, self._clip.num_frames)
        work = self._work()
        with work.current():
            packed = work.packed(frames.num_bytes)
            self._decode(wanted, frames, packed, work)
            rows = finish(work, packed, frames, frames.mirrored, self._options)
        work.wait()
        made = rows.view(len(wanted), self._clip.num_frames, *rows.shape[1:])
        return DeviceRows(made)  # type: ignore[return-value]

    def close(self) -> None:
        self._graphs.close()

    def _decode(
        self, wanted: WantedClips, frames: _Frames, packed: torch.Tensor, work: Work
    ) -> None:
        def take(rows: Sequence[int], clips: Any) -> None:
            """Densely, in the order of the rows, which is that of the packed buffer."""
            begin = int(frames.offsets[rows[0] * self._clip.num_frames])
            target = ctypes.c_void_p(packed.data_ptr() + begin)
            if work.stream is None:
                clips.copy_to_external(target)
                return
            stream = ctypes.c_void_p(work.stream.cuda_stream)
            clips.copy_to_external(target, stream, non_blocking=True, use_copy_kernel=True)

        self._graphs.decode(wanted, take, work.stream)

    def _work(self) -> Work:
        if not hasattr(self._local, "work"):
            self._local.work = Work(self._device)
        work: Work = self._local.work
        return work


class _Frames:
    """All frames of a chunk behind each other: `Placed`, a row a frame."""

    def __init__(self, wanted: WantedClips, num_frames: int) -> None:
        self.sizes: Int64Array = wanted.sizes.repeat(num_frames, axis=0)
        self.crops: Int64Array = wanted.boxes.repeat(num_frames, axis=0)
        self.mirrored = wanted.mirrored.repeat(num_frames)
        ends = np.cumsum(CHANNELS * self.sizes.prod(axis=1))
        self.offsets: Int64Array = np.concatenate([[0], ends[:-1]])
        self.num_bytes = int(ends[-1])


class _VideoGraphs:
    """The DALI pipeline that fits a chunk; thread-safe."""

    def __init__(self, clip: Clip, device: torch.device, num_threads: int) -> None:
        library()  # whether it is there is said now
        self._clip = clip
        self._device = device
        self._num_threads = num_threads
        self._lock = threading.Lock()
        self._graph: Graph | None = None

    def decode(
        self, wanted: WantedClips, take: Callable[[Sequence[int], Any], Any], stream: Any = None
    ) -> list[tuple[Sequence[int], Any]]:
        """`take(rows, clips)` of all rows, each [frames, height, width, 3] as stored: of all at
        once, or of one after the other where DALI refused them together.  A `DataError` names
        the first row that it refuses."""
        try:
            return [self._run(wanted, range(len(wanted)), take, stream)]
        except Failed:
            return [self._alone(wanted, row, take, stream) for row in range(len(wanted))]

    def close(self) -> None:
        if self._graph is not None:
            self._graph.close()

    def _alone(
        self, wanted: WantedClips, row: int, take: Callable[[Sequence[int], Any], Any], stream: Any
    ) -> tuple[Sequence[int], Any]:
        try:
            return self._run(wanted, [row], take, stream)
        except Failed as error:
            codec = wanted.videos[row].codec
            raise DataError(f"DALI cannot decode the video ({codec}): {error}", row=row) from error

    def _run(
        self,
        wanted: WantedClips,
        rows: Sequence[int],
        take: Callable[[Sequence[int], Any], Any],
        stream: Any,
    ) -> tuple[Sequence[int], Any]:
        feeds: Feeds = {
            "encoded": [np.frombuffer(wanted.videos[row].content, np.uint8) for row in rows],
            "start": [np.array(wanted.starts[row], np.int32) for row in rows],
        }

        def checked(clips: Any) -> Any:
            self._check(wanted, rows, clips)
            return take(rows, clips)

        return rows, self._graph_for(len(rows)).run(feeds, checked, stream)

    def _check(self, wanted: WantedClips, rows: Sequence[int], clips: Any) -> None:
        for row, shape in zip(rows, clips.shape(), strict=True):
            expected = (self._clip.num_frames, *wanted.sizes[row].tolist(), CHANNELS)
            if tuple(shape) != expected:
                raise DataError(
                    f"DALI made {list(shape)} of a clip that is {list(expected)} by its container: "
                    "the video is damaged",
                    row=row,
                )

    def _graph_for(self, num_samples: int) -> Graph:
        with self._lock:
            graph = self._graph
            if graph is None or not graph.fits(num_samples):
                batch_size = max(num_samples, graph.batch_size if graph else 0)
                graph = self._graph = Graph(self._built(batch_size), batch_size)
            return graph

    def _built(self, batch_size: int) -> Any:
        fn, _, types = library()
        is_gpu = self._device.type == "cuda"
        # Which cores it may use is ours to say; on the CPU it has no threads of its own.
        options = {"affine": False} if is_gpu else {}

        def graph() -> Any:
            return fn.decoders.video(
                fn.external_source(name="encoded", dtype=types.UINT8, ndim=1, no_copy=True),
                device="mixed" if is_gpu else "cpu",
                start_frame=fn.external_source(name="start", dtype=types.INT32, ndim=0),
                sequence_length=self._clip.num_frames,
                stride=self._clip.stride,
                pad_mode="none",  # a frame that is not there is missed, not made up
                **options,
            )

        return built(
            graph, device=self._device, batch_size=batch_size, num_threads=self._num_threads
        )


def _check_codec(video: EncodedVideo, row: int) -> None:
    if video.codec in _ON_GPU_ONLY:
        raise DataError(
            f"the video is {video.codec}, which DALI decodes on a GPU alone: call "
            "batch(n).to('cuda'), or encode it as VP9",
            row=row,
        )
