"""What containers say of their videos, against what FFmpeg finds in them."""

from __future__ import annotations

import io

import av
import numpy as np
import pytest
from fakes.videos import KINDS, KINDS_ON_GPU, by_ffmpeg, hidden, video

from iopipe.errors import DataError
from iopipe.loaders.decode.tracks import read_video


@pytest.mark.parametrize("kind", [*KINDS, *KINDS_ON_GPU])
def test_size_codec_and_frames_are_those_that_ffmpeg_finds(kind: str) -> None:
    content = video(kind, num_frames=13, size=(66, 90))
    found = read_video(memoryview(content))
    with av.open(io.BytesIO(content)) as file:
        name = file.streams.video[0].codec.canonical_name
    frames = by_ffmpeg(content)
    assert (found.num_frames, found.height, found.width) == frames.shape[:3]
    # MP4 has one name for all that MPEG-4 part 1 may hold, Motion JPEG among it.
    assert found.codec == {"mjpeg in mp4": "mp4v"}.get(kind, name)
    assert found.content.obj is content


@pytest.mark.parametrize(
    ("kind", "muxing"),
    [
        ("vp9 in mp4", {"movflags": "frag_keyframe+empty_moov"}),
        ("h264 in mp4", {"movflags": "frag_every_frame+delay_moov"}),
        ("vp9 in webm", {"live": "1"}),
        ("vp9 in webm", {"cluster_size_limit": "500"}),
    ],
)
def test_fragments_and_live_recordings_are_counted(kind: str, muxing: dict[str, str]) -> None:
    found = read_video(video(kind, num_frames=29, **muxing))
    assert (found.num_frames, found.height, found.width) == (29, 48, 64)


@pytest.mark.parametrize("kind", ["vp9 in mp4", "vp9 in webm"])
def test_sound_is_not_counted(kind: str) -> None:
    assert read_video(video(kind, num_frames=17, with_audio=True)).num_frames == 17


def test_frames_that_are_not_shown_are_not_counted() -> None:
    content = hidden(video("vp8 in webm", keyframe_every=40), 5)
    assert read_video(content).num_frames == len(by_ffmpeg(content)) == 31


@pytest.mark.parametrize("kind", ["vp9 in mp4", "vp9 in webm", "mjpeg in mov"])
def test_a_file_that_was_cut_off_is_damaged_wherever_that_was(kind: str) -> None:
    content = video(kind, num_frames=6)
    assert read_video(content).num_frames == 6
    for end in range(0, len(content), 1 + len(content) // 600):
        with pytest.raises(DataError):
            read_video(content[:end])


@pytest.mark.parametrize("kind", ["vp9 in mp4", "vp9 in webm"])
def test_bytes_that_changed_end_in_a_value_or_in_damage(kind: str) -> None:
    content = np.frombuffer(video(kind, num_frames=6, with_audio=True), np.uint8)
    generator = np.random.default_rng(0)
    for _ in range(1000):
        changed = content.copy()
        places = generator.integers(0, len(content), 4)
        changed[places] = generator.integers(0, 256, 4)
        try:
            assert read_video(changed).num_frames >= 1
        except DataError as error:
            assert error.reason


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "it is no video"),
        (b"RIFF\x94j\0\0AVI LIST", "neither MP4 or QuickTime nor Matroska or WebM"),
        (b"\0\0\0\x14ftypisom\0\0\0\0isom", "no video track"),
        (b"\x1a\x45\xdf\xa3\x80", "no video track"),
        (b"\0\0\0\x04ftyp\0\0\0\0", "has 4 bytes"),
        (b"\x1a\x45\xdf\xa3\x80\0", "no element at byte 5"),
        (b"\x1a\x45\xdf\xa3\x80\xec\xff", "has no size"),
    ],
)
def test_what_is_no_video_is_refused_with_the_reason(content: bytes, said: str) -> None:
    with pytest.raises(DataError, match=said):
        read_video(content)
