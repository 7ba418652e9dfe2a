"""What a kernel is timed and tuned on.

Stands between the kernels and whoever times them.  Invariant: a case is complete: inputs
on the device, the naive twin that judges the result, and what users would write instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from iopipe.kernels.tuning import Config, Kernel, Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One kernel at one real shape; inputs are made once, when the case is."""

    kernel: Kernel
    name: str
    """Unique within the kernel: '256x500x375 to 224 bfloat16'."""
    problem: Problem
    num_bytes: int
    """Bytes that must be read and written, each counted once."""
    run: Callable[[Config | None], Any]
    """Launch with this configuration (None: the one that is looked up); the outputs."""
    twin: Callable[[], Any]
    """The same outputs from plain torch."""
    agrees: Callable[[Any, Any], bool]
    """Whether outputs of `run` and `twin` fulfil the kernel's numerics contract."""
    baselines: Mapping[str, Callable[[], Any]] = field(default_factory=dict)
    """What users would write instead: {'torch.compile': ...}."""
