"""Images that an engine leaves to the CPU: which, how many and why.

Stands beside the engines.  Invariant: nothing goes to the CPU unsaid: each reason is logged
when it is met first, and all of them stand in the report with their numbers.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter

from iopipe.loaders.decode.images import EncodedImage

_log = logging.getLogger(__name__)

_END_OF_IMAGE = b"\xff\xd9"
_TAIL_BYTES = 64


class Detours:
    """Counts of one run; thread-safe."""

    def __init__(self, engine: str) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def add(self, reason: str, number: int = 1) -> None:
        """`number` images are decoded by the CPU for this reason."""
        with self._lock:
            is_new = reason not in self._counts
            self._counts[reason] += number
        if is_new:
            _log.warning("engine %r leaves images to the CPU: %s", self._engine, reason)

    def notes(self) -> tuple[str, ...]:
        """A line a reason."""
        with self._lock:
            counts = sorted(self._counts.items())
        return tuple(
            f"engine {self._engine!r} left {number} images to the CPU: {reason}"
            for reason, number in counts
        )


def why_not_by_jpeg_decoder(image: EncodedImage) -> str | None:
    """Why an image is none for a decoder of JPEGs in grey or three colours; None where it is."""
    if image.decoder is not None:
        return f"{image.decoder.format} is none of its formats here"
    if not image.is_plain:
        return "JPEG in CMYK or YCCK is none of its formats here"
    return why_not_whole(image)


def why_not_whole(image: EncodedImage) -> str | None:
    """Whether a JPEG or JPEG 2000 may have been cut off, which not every decoder sees.

    Coded data never holds the mark of the end, so a file without it near its end is truncated
    or has something behind it: the CPU finds out which.
    """
    if _END_OF_IMAGE in bytes(image.content[-_TAIL_BYTES:]):
        return None
    return "a file without the mark of its end may be damaged, which it would not see"
