"""Tracks of an MP4 or QuickTime file: size, codec, and how many frames.

Stands under `tracks`.  Invariant: boxes of samples are stepped over, so the time goes with the
number of boxes and not with the bytes of the video.

Source: ISO/IEC 14496-12 (boxes, sample tables, fragments), QuickTime File Format.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from iopipe.errors import DataError
from iopipe.loaders.decode.parts import Track, check_end, number_at

_FIRST_BOXES = (b"ftyp", b"styp", b"moov", b"mdat", b"free", b"skip", b"wide")
_HOLDS_BOXES = frozenset((b"moov", b"trak", b"mdia", b"minf", b"stbl", b"moof", b"traf"))


@dataclass(frozen=True, slots=True)
class _Box:
    kind: bytes
    begin: int
    """Of what it holds, behind its header."""
    end: int


def is_one(content: memoryview) -> bool:
    return bytes(content[4:8]) in _FIRST_BOXES


def tracks(content: memoryview) -> list[Track]:
    """In the order of the file, with the frames of its fragments, where it has some."""
    found: list[Track] = []
    in_fragment = Track()
    for box in _boxes(content):
        if box.kind == b"trak":
            found.append(Track())
        elif box.kind == b"tfhd":
            number = number_at(content, box.begin + 4, 4)
            named = (track for track in found if track.number == number)
            in_fragment = next(named, Track())
        elif box.kind == b"trun":
            in_fragment.num_frames += number_at(content, box.begin + 4, 4)
        elif found:
            _describe(found[-1], box, content)
    return found


def _describe(track: Track, box: _Box, content: memoryview) -> None:
    if box.kind == b"tkhd":
        times = 16 if number_at(content, box.begin, 1) == 1 else 8
        track.number = number_at(content, box.begin + 4 + times, 4)
    elif box.kind == b"hdlr":
        # QuickTime has one more in `minf`, for data, which must not hide the track's own.
        track.is_video |= bytes(content[box.begin + 8 : box.begin + 12]) == b"vide"
    elif box.kind == b"stsd" and number_at(content, box.begin + 4, 4):
        entry = box.begin + 8
        track.codec = bytes(content[entry + 4 : entry + 8]).decode("latin-1").strip()
        track.width = number_at(content, entry + 32, 2)
        track.height = number_at(content, entry + 34, 2)
    elif box.kind in (b"stsz", b"stz2"):
        track.num_frames += number_at(content, box.begin + 8, 4)


def _boxes(content: memoryview) -> Iterator[_Box]:
    """Every box on the way to the sample tables, before what it holds."""
    at = 0
    while at < len(content):
        box = _box_at(content, at)
        check_end(content, box.kind.decode("latin-1"), box.end)
        yield box
        at = box.begin if box.kind in _HOLDS_BOXES else box.end


def _box_at(content: memoryview, at: int) -> _Box:
    size, kind = number_at(content, at, 4), bytes(content[at + 4 : at + 8])
    begin, end = at + 8, at + size
    if size == 1:
        begin, end = at + 16, at + number_at(content, at + 8, 8)
    elif size == 0:
        end = len(content)
    if end < begin:
        raise DataError(f"the video is damaged: its box {kind!r} at byte {at} has {size} bytes")
    return _Box(kind, begin, end)
