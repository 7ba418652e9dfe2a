"""Which frames of each video are decoded, and which part of them is kept.

Stands between a video's container and the engine that decodes it.  Invariant: the same bytes,
id, seed, epoch and options ask for the same frames, region and flip, whatever the engine, the
chunk or the thread.  Region and flip are those that an image of that size would get.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from iopipe.draws import uniform
from iopipe.errors import DataError
from iopipe.loaders.decode import crops
from iopipe.loaders.decode.tracks import EncodedVideo, read_video
from iopipe.loaders.decode.wanted import damage_at
from iopipe.protocols import BoolArray, Column, Int64Array, Samples
from iopipe.stages import Clip, ImageOptions


class Videos(Protocol):
    """What an engine makes of a column of videos: [n, frames, height, width, 3]; thread-safe."""

    def __call__(self, name: str, column: Column, samples: Samples) -> Column: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedClips:
    """The videos of a chunk and what is to become of them, row by row."""

    videos: Sequence[EncodedVideo]
    starts: Int64Array
    """[n]: the first frame of each clip."""
    sizes: Int64Array
    """[n, 2]: height, width as stored."""
    boxes: crops.Boxes
    mirrored: BoolArray

    def __len__(self) -> int:
        return len(self.videos)


def what_is_wanted(column: Column, samples: Samples, options: ImageOptions) -> WantedClips:
    """Containers are read, clips, regions and flips drawn; a `DataError` names the row that is
    damaged, too short or too large."""
    assert options.clip is not None
    videos = []
    for row, raw in enumerate(column):
        with damage_at(row):
            videos.append(read_video(raw))
            _check(videos[-1], options.clip, options.max_pixels)
    sizes = np.array([(video.height, video.width) for video in videos], np.int64).reshape(-1, 2)
    num_frames = np.array([video.num_frames for video in videos], np.int64)
    return WantedClips(
        videos=videos,
        starts=starts(samples, num_frames, options.clip),
        sizes=sizes,
        boxes=crops.boxes(samples, sizes, options),
        mirrored=crops.flips(samples, options),
    )


def starts(samples: Samples, num_frames: Int64Array, clip: Clip) -> Int64Array:
    """The first frame of the clip of each video, which has `num_frames` frames."""
    last = num_frames - span(clip)
    if clip.start == "random":
        draws = uniform(samples.ids, seed=samples.seed, epoch=samples.epoch, op="clip", num_draws=1)
        return (draws[:, 0] * (last + 1)).astype(np.int64)
    return last // 2 if clip.start == "center" else np.zeros_like(last)


def span(clip: Clip) -> int:
    """Frames from the first one of a clip to the last, both included."""
    return (clip.num_frames - 1) * clip.stride + 1


def _check(video: EncodedVideo, clip: Clip, max_pixels: int) -> None:
    if video.num_frames < span(clip):
        raise DataError(
            f"the video has {video.num_frames} frames, and {clip.num_frames} with stride "
            f"{clip.stride} need {span(clip)}: use a shorter clip, or leave such videos out by "
            "on_error='skip'"
        )
    if clip.num_frames * video.height * video.width > max_pixels:
        raise DataError(
            f"{clip.num_frames} frames of {video.width} x {video.height} have more pixels than "
            f"max_pixels={max_pixels}; raise max_pixels if it is meant to be so large"
        )
