"""The words of configuration: how a kernel is launched, what for, and what a kernel is.

Stands under every kernel and under `tuning`, which hands these names on.  Invariant: plain
values; a configuration changes speed only: every one of a kernel gives the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """One way to launch a kernel."""

    blocks: Mapping[str, int] = field(default_factory=dict)
    """The compile-time sizes and variants of the kernel, by the names it gives them."""
    num_warps: int = 4
    num_stages: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What a launch is about, as far as it decides which configuration is fast."""

    dtypes: tuple[str, ...]
    """Of the inputs and outputs, as torch names them: ('uint8', 'bfloat16')."""
    shape: Mapping[str, int]
    """Named sizes; they are put into buckets for the key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """What looking up and tuning must know of a kernel."""

    name: str
    """Unique: it names the kernel's file of tuned configurations."""
    functions: tuple[Any, ...]
    """The Triton functions whose source is part of the key, helpers included."""
    heuristic: Callable[[Problem], Config]
    """A good configuration for any problem on any GPU; always works."""
    candidates: Callable[[Problem], Sequence[Config]]
    """What tuning tries; holds the heuristic's choice for every problem of the same bucket.  A
    file's configuration that is not among them is damaged."""


def bucket(size: int) -> int:
    """The least power of two that is not below `size`; 0 stays 0.

    Sizes of one bucket share a configuration: 5, 6, 7 and 8 are in bucket 8.
    """
    return 1 << (size - 1).bit_length() if size > 0 else 0


def bucketed(problem: Problem) -> Problem:
    """The problem that stands for all of its buckets."""
    return Problem(
        dtypes=tuple(problem.dtypes),
        shape={name: bucket(int(size)) for name, size in problem.shape.items()},
    )
