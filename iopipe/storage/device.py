"""What reads into a device's memory take.

Stands beside the stores that have such reads; needs no library of theirs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol


class DeviceBuffer(Protocol):
    """Contiguous GPU memory: a tensor of torch, an array of cupy, a slot."""

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class DeviceRead:
    """Fill `buffer` with the bytes of `path` from `offset` on; the caller owns `buffer`, and
    no kernel may be at work on it: kvikio copies on streams of its own."""

    path: str
    offset: int
    buffer: DeviceBuffer
