"""The video track of a file, as its container describes it.

Stands between encoded videos and the choice of their frames: nothing is decoded here.
Invariant: only what lies within the bytes is read, and a file that ends within one of its parts
is damaged.

`mp4` and `matroska` know one container each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from iopipe.errors import DataError
from iopipe.loaders.decode import matroska, mp4
from iopipe.loaders.decode.parts import Track


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedVideo:
    """A video whose container was read."""

    content: memoryview
    codec: str
    """'vp9', 'h264', ...; the container's own name of one that is not known here."""
    num_frames: int
    height: int
    width: int


_CODECS = {
    "h264": ("avc1", "avc2", "avc3", "avc4", "V_MPEG4/ISO/AVC"),
    "hevc": ("hvc1", "hev1", "V_MPEGH/ISO/HEVC"),
    "av1": ("av01", "V_AV1"),
    "vp9": ("vp09", "V_VP9"),
    "vp8": ("vp08", "V_VP8"),
    "mpeg4": ("V_MPEG4/ISO/SP", "V_MPEG4/ISO/ASP", "V_MPEG4/ISO/AP"),  # mp4v may be any MPEG
    "mjpeg": ("jpeg", "mjpa", "V_MJPEG"),
}
_NAMES = {name: codec for codec, names in _CODECS.items() for name in names}


def read_video(raw: Any) -> EncodedVideo:
    """What the container says of its first video track; a `DataError` where it is damaged."""
    content = memoryview(raw)
    track = _first_track(content)
    if track.num_frames < 1 or min(track.width, track.height) < 1:
        raise DataError(
            f"its video track has {track.num_frames} frames of {track.width} x {track.height} "
            "pixels; the file is damaged"
        )
    return EncodedVideo(
        content=content,
        codec=_NAMES.get(track.codec, track.codec),
        num_frames=track.num_frames,
        height=track.height,
        width=track.width,
    )


def _first_track(content: memoryview) -> Track:
    for container in (mp4, matroska):
        if container.is_one(content):
            tracks: list[Track] = container.tracks(content)
            for track in tracks:
                if track.is_video:
                    return track
            raise DataError("there is no video track in it")
    raise DataError(
        f"it is no video that can be decoded: it begins with {bytes(content[:12])!r}, and is "
        "neither MP4 or QuickTime nor Matroska or WebM"
    )
