"""What the readers of containers have in common: numbers within bounds, and what they find.

Stands under `mp4` and `matroska`.  Invariant: whatever the bytes say, reading them ends, within
them, in a value or in a `DataError`.
"""

from __future__ import annotations

from dataclasses import dataclass

from iopipe.errors import DataError


@dataclass(slots=True)
class Track:
    """Of a container; filled while it is read."""

    number: int = 0
    """By which later parts of the file name it."""
    is_video: bool = False
    codec: str = ""
    """As the container names it."""
    width: int = 0
    height: int = 0
    num_frames: int = 0


def number_at(content: memoryview, begin: int, num_bytes: int) -> int:
    """An unsigned big-endian number."""
    if begin + num_bytes > len(content):
        raise DataError("the video was cut off: it ends within a header")
    return int.from_bytes(content[begin : begin + num_bytes], "big")


def check_end(content: memoryview, name: str, end: int) -> None:
    """`DataError` where a part ends behind the last byte."""
    if end > len(content):
        raise DataError(
            f"the video was cut off: its part {name!r} ends at byte {end} of {len(content)}"
        )
