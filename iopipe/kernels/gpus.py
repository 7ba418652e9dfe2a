"""Which GPU a configuration is for.

Stands beside `tuning`.  Invariant: two GPUs that may want different configurations differ
in a field: an H100 PCIe, H100 SXM and H200 share an architecture and little else.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

import torch
import triton


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """What decides about speed and is the same for every card of a model."""

    name: str
    """In full, as the driver has it: 'NVIDIA H200'."""
    sm: int
    """The architecture: 90 for compute capability 9.0."""
    num_multiprocessors: int
    l2_bytes: int

    @property
    def folder(self) -> str:
        """'nvidia-h200'."""
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")


def current_gpu() -> Gpu | None:
    """The current CUDA device, or None where there is none."""
    return _gpu(torch.cuda.current_device()) if torch.cuda.is_available() else None


@functools.cache
def _gpu(index: int) -> Gpu:
    found = torch.cuda.get_device_properties(index)
    return Gpu(
        name=found.name,
        sm=10 * found.major + found.minor,
        num_multiprocessors=found.multi_processor_count,
        l2_bytes=found.L2_cache_size,
    )


@functools.cache
def triton_minor() -> str:
    """'3.6' for Triton 3.6.0: configurations are not carried from one minor to the next."""
    return ".".join(triton.__version__.split(".")[:2])
