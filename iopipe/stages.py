"""Frozen specs: what a pipeline will do, as values that can be printed and compared.

Stands between what the user types (`pipeline`) and what runs it (`engine`).  Invariant: a
spec holds no thread, no buffer and no open file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

Cause: TypeAlias = Literal["storage", "decode", "transform", "collate", "queue", "h2d", "loader"]
"""What a starved step waited for.  'queue': the batch was ready or parked between stages;
'loader': a foreign loader that iopipe cannot look into."""

Takes: TypeAlias = Literal["samples", "batch"]
"""What a stage's function gets: a `Samples` chunk, or the columns of a whole batch."""

Crop: TypeAlias = Literal["random", "center", "none"]
Fidelity: TypeAlias = Literal["exact", "scaled"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One step: a function, where it runs and how many of it run at once."""

    name: str
    function: Callable[[Any], Any]
    takes: Takes
    cause: Cause
    """What a step that waits for this stage is starved of."""
    concurrency: int = 1
    """Threads that run `function` at the same time; the order of results is kept."""
    buffer: int = 2
    """Finished items that may wait behind the stage before it is held back."""

    def __str__(self) -> str:
        return f"{self.name} ({self.concurrency} threads, buffer {self.buffer})"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageOptions:
    """How images become arrays of one size.

    The draws of crop and flip are keyed by (seed, epoch, sample id), so that they are the
    same for any number of threads and after a resume.
    """

    size: tuple[int, int] | None = None
    """(height, width) in pixels of every output; None keeps each image's own size."""
    crop: Crop = "none"
    """'random': random-resized-crop (Szegedy et al. 2014, as torchvision draws it);
    'center': the largest centred region with the aspect ratio of `size`; 'none': the
    whole image is resized."""
    flip: bool = False
    """Mirror left-right with probability 1/2."""
    fidelity: Fidelity = "exact"
    """'exact': full-resolution decode, antialiased resize.  'scaled': JPEG's DCT-domain
    scaling first where the crop is at least twice the output; faster, slightly softer."""
    scale: tuple[float, float] = (0.08, 1.0)
    """Share of the image's area that a random crop covers."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Width over height of a random crop before the resize."""
    max_pixels: int = 178_956_970
    """Images of more pixels are refused before they are decoded (Pillow's bomb limit)."""
