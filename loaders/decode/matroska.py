"""Tracks of a Matroska or WebM file: size, codec, and how many frames.

Stands under `tracks`.  Invariant: frames are stepped over; the time goes with their number.

Source: RFC 8794 (EBML), RFC 9559 (Matroska), RFC 6386 (VP8).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from iopipe.errors import DataError
from iopipe.loaders.decode.parts import Track, check_end, number_at

_EBML = b"\x1a\x45\xdf\xa3"
_SEGMENT, _CLUSTER, _BLOCK_GROUP = 0x18538067, 0x1F43B675, 0xA0
_TRACKS, _TRACK, _VIDEO = 0x1654AE6B, 0xAE, 0xE0
_HOLDS_ELEMENTS = frozenset((_SEGMENT, _CLUSTER, _BLOCK_GROUP, _TRACKS, _TRACK, _VIDEO))
_TRACK_NUMBER, _TRACK_TYPE, _CODEC, _WIDTH, _HEIGHT = 0xD7, 0x83, 0x86, 0xB0, 0xBA
_BLOCKS = (0xA3, 0xA1)
"""SimpleBlock, and Block of a group: a frame each, since video is not laced."""
_IS_VIDEO = 1
_VP8 = "V_VP8"
_BLOCK_HEADER_BYTES = 3
"""Behind the number of its track: time and flags."""
_IS_SHOWN = 0x10
"""Of the first byte of a VP8 frame.  Others are predicted from it, but it is none of the video;
VP9 and AV1 put theirs into the block of one that is shown."""


def is_one(content: memoryview) -> bool:
    return bytes(content[:4]) == _EBML


def tracks(content: memoryview) -> list[Track]:
    """In the order of the file."""
    found: list[Track] = []
    num_blocks: Counter[int | None] = Counter()
    num_hidden: Counter[int | None] = Counter()
    for kind, begin, end in _elements(content):
        if kind == _TRACK:
            found.append(Track())
        elif kind in _BLOCKS:
            number, behind = _size_at(content, begin)
            num_blocks[number] += 1
            frame = number_at(content, behind + _BLOCK_HEADER_BYTES, 1)
            num_hidden[number] += not frame & _IS_SHOWN
        elif found:
            _describe(found[-1], kind, content[begin:end])
    for track in found:
        track.num_frames = num_blocks[track.number]
        if track.codec == _VP8:
            track.num_frames -= num_hidden[track.number]
    return found


def _describe(track: Track, kind: int, value: memoryview) -> None:
    if kind == _CODEC:
        track.codec = bytes(value).rstrip(b"\0").decode("latin-1")
    elif kind == _TRACK_NUMBER:
        track.number = int.from_bytes(value, "big")
    elif kind == _TRACK_TYPE:
        track.is_video = int.from_bytes(value, "big") == _IS_VIDEO
    elif kind == _WIDTH:
        track.width = int.from_bytes(value, "big")
    elif kind == _HEIGHT:
        track.height = int.from_bytes(value, "big")


def _elements(content: memoryview) -> Iterator[tuple[int, int, int]]:
    """Kind, begin and end of every element on the way to the frames, before what it holds.

    What holds elements is walked into without remembering where it ends: of a live recording
    that is not known, and nothing here needs it.
    """
    at = 0
    while at < len(content):
        kind, at = _kind_at(content, at)
        size, begin = _size_at(content, at)
        end = begin if size is None else begin + size
        if size is None and kind not in _HOLDS_ELEMENTS:
            raise DataError(f"the video is damaged: its element {kind:#x} has no size")
        check_end(content, f"{kind:#x}", end)
        yield kind, begin, end
        at = begin if kind in _HOLDS_ELEMENTS else end


def _kind_at(content: memoryview, at: int) -> tuple[int, int]:
    """An element's id, with its marker as the specification writes it; where its size is."""
    num_bytes = _num_bytes(content, at)
    return number_at(content, at, num_bytes), at + num_bytes


def _size_at(content: memoryview, at: int) -> tuple[int | None, int]:
    """A number of variable length, None where all its bits are set; where what follows is."""
    num_bytes = _num_bytes(content, at)
    all_bits = (1 << 7 * num_bytes) - 1
    value = number_at(content, at, num_bytes) & all_bits
    return None if value == all_bits else value, at + num_bytes


def _num_bytes(content: memoryview, at: int) -> int:
    """The first bit that is set says how many there are."""
    first = number_at(content, at, 1)
    if first == 0:
        raise DataError(f"the video is damaged: there is no element at byte {at}")
    return 9 - first.bit_length()
