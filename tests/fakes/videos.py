"""Videos of every kind that datasets hold, made here by FFmpeg, and what FFmpeg decodes of them.

Each frame shows its number, as bright and dark squares, below a smooth stretch of colours.
"""

from __future__ import annotations

import io
from typing import Any

import av
import numpy as np
import torch

Frames = np.ndarray[Any, np.dtype[np.uint8]]
"""[frames, height, width, 3]"""
Plane = np.ndarray[Any, np.dtype[np.float64]]

HEIGHT, WIDTH = 48, 64
_SQUARE = 8
_NUM_BITS = 6
_FAST = {"deadline": "realtime", "cpu-used": "8"}

KINDS = {
    "vp9 in webm": ("libvpx-vp9", "webm"),
    "vp9 in mkv": ("libvpx-vp9", "matroska"),
    "vp9 in mp4": ("libvpx-vp9", "mp4"),
    "vp8 in webm": ("libvpx", "webm"),
    "mjpeg in mkv": ("mjpeg", "matroska"),
    "mjpeg in mov": ("mjpeg", "mov"),
    "mjpeg in mp4": ("mjpeg", "mp4"),
}
"""(encoder, container) of what DALI decodes on the CPU."""
KINDS_ON_GPU = {
    "h264 in mp4": ("libx264", "mp4"),
    "h264 in mkv": ("libx264", "matroska"),
    "hevc in mp4": ("libx265", "mp4"),
    "av1 in mp4": ("libsvtav1", "mp4"),
}
"""... and on a GPU only."""


def video(
    kind: str = "vp9 in mp4",
    *,
    num_frames: int = 32,
    size: tuple[int, int] = (HEIGHT, WIDTH),
    keyframe_every: int = 8,
    with_audio: bool = False,
    **muxing: str,
) -> bytes:
    """`size` is (height, width); `muxing` are options of the container."""
    encoder, container = {**KINDS, **KINDS_ON_GPU}[kind]
    raw = io.BytesIO()
    with av.open(raw, "w", format=container, options=muxing) as file:
        sound = file.add_stream("libopus", rate=48000) if with_audio else None
        stream = file.add_stream(encoder, rate=10, options=_FAST if "vpx" in encoder else {})
        stream.height, stream.width = size
        stream.pix_fmt = "yuvj420p" if encoder == "mjpeg" else "yuv420p"
        stream.gop_size = keyframe_every
        for number in range(num_frames):
            frame = av.VideoFrame.from_ndarray(_frame(number, *size), format="rgb24")
            file.mux(stream.encode(frame))
            if sound is not None:
                file.mux(sound.encode(_silence(number)))
        for made in (stream, sound):
            if made is not None:
                file.mux(made.encode(None))
    return raw.getvalue()


def hidden(content: bytes, number: int) -> bytes:
    """A VP8 video in WebM whose frame `number` is not shown: others are only predicted from it."""
    raw = io.BytesIO()
    with av.open(io.BytesIO(content)) as file, av.open(raw, "w", format="webm") as made:
        target = made.add_stream_from_template(file.streams.video[0])
        for place, packet in enumerate(file.demux(video=0)):
            if packet.size == 0:
                continue
            coded = bytearray(bytes(packet))
            if place == number:
                coded[0] &= ~0x10
            copy = av.Packet(bytes(coded))
            copy.pts, copy.dts, copy.time_base = packet.pts, packet.dts, packet.time_base
            copy.stream, copy.is_keyframe = target, packet.is_keyframe
            made.mux(copy)
    return raw.getvalue()


def by_ffmpeg(content: bytes) -> Plane:
    """All frames as FFmpeg decodes them, turned from Y'CbCr into RGB by exact arithmetic: ITU-R
    BT.601, and chroma between its samples, which lie in the middle of four pixels, bilinear."""
    with av.open(io.BytesIO(content)) as file:
        return np.stack([_as_rgb(frame) for frame in file.decode(video=0)])


def _as_rgb(frame: av.VideoFrame) -> Plane:
    luma, *chroma = (_plane(plane) for plane in frame.planes)
    blue, red = (_stretched(plane, luma.shape) - 128 for plane in chroma)
    if not frame.format.name.startswith("yuvj"):  # else it has the whole range already
        luma, blue, red = (luma - 16) * 255 / 219, blue * 255 / 224, red * 255 / 224
    green = luma - (0.114 * 1.772 * blue + 0.299 * 1.402 * red) / 0.587
    return np.stack([luma + 1.402 * red, green, luma + 1.772 * blue], axis=-1).clip(0, 255)


def _plane(plane: Any) -> Plane:
    rows = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)
    return rows[:, : plane.width].astype(np.float64)


def _stretched(plane: Plane, shape: tuple[int, ...]) -> Plane:
    """To the whole of luma, also where that has an odd side and the ratio is not quite 2: so does
    FFmpeg's own scaler."""
    planes = torch.from_numpy(plane)[None, None]
    return torch.nn.functional.interpolate(planes, shape, mode="bilinear")[0, 0].numpy()


def numbers_of(frames: Frames) -> list[int]:
    """What the frames show, of a video as it is stored."""
    row = frames.shape[1] - _SQUARE // 2
    columns = [_SQUARE * bit + _SQUARE // 2 for bit in range(_NUM_BITS)]
    return [
        sum(int(frame[row, column].mean() > 128) << bit for bit, column in enumerate(columns))
        for frame in frames
    ]


def damaged_videos() -> dict[str, bytes]:
    """Name to content; none of them can be decoded."""
    in_mp4, in_webm = video("vp9 in mp4"), video("vp9 in webm")
    return {
        "half an mp4": in_mp4[: len(in_mp4) // 2],
        "an mp4 without its end": in_mp4[:-40],
        "half a webm": in_webm[: len(in_webm) // 2],
        "a webm without its end": in_webm[:-40],
        "no video": b"nothing of the kind" * 20,
        "zeros": bytes(2000),
        "frames of noise": _noisy(in_mp4),
    }


def _noisy(in_mp4: bytes) -> bytes:
    """The boxes are as they were, what is in `mdat` is not."""
    begin = in_mp4.index(b"mdat") + 4
    size = int.from_bytes(in_mp4[begin - 8 : begin - 4], "big") - 8
    noise = np.random.default_rng(0).integers(0, 256, size, np.uint8).tobytes()
    return in_mp4[:begin] + noise + in_mp4[begin + size :]


def _frame(number: int, height: int, width: int) -> Frames:
    across = np.linspace(0, 1, width)[None, :, None]
    colours = 128 + 60 * np.cos(np.pi * (across + np.array([0.0, 0.4, 0.9])))
    frame = np.broadcast_to(colours, (height, width, 3)).astype(np.uint8)
    frame[height // 2 :] = 128
    for bit in range(min(_NUM_BITS, width // _SQUARE)):
        columns = slice(_SQUARE * bit, _SQUARE * (bit + 1))
        frame[height - _SQUARE :, columns] = 220 if number >> bit & 1 else 30
    return frame


def _silence(number: int) -> av.AudioFrame:
    samples = np.zeros((1, 2 * 4800), np.int16)
    frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="stereo")
    frame.sample_rate, frame.pts = 48000, 4800 * number
    return frame
