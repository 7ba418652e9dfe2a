"""From a caller's wishes to a grid: configurations as numbers, budgets of programs, checks.

Stands between a kernel's public function and its registered op.  An op's arguments are
tensors and numbers only, so a `Config` crosses as a list of them, and what is not given is
looked up behind the border, where a compiler that traces the caller does not look.
Invariant: nothing here touches the device.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from triton import knobs

from iopipe.errors import PipelineError
from iopipe.kernels.tuning import Config, Kernel, Problem, resolve


def to_words(config: Config | None, names: Sequence[str]) -> list[int]:
    """The block sizes in the order of `names`, then warps and stages; [] for None."""
    if config is None:
        return []
    if set(config.blocks) != set(names):
        raise PipelineError(
            f"the configuration has the blocks {sorted(config.blocks)}: give {sorted(names)}"
        )
    return [*(config.blocks[name] for name in names), config.num_warps, config.num_stages]


def chosen(kernel: Kernel, problem: Problem, words: Sequence[int], names: Sequence[str]) -> Config:
    """The configuration that `words` spell, or the one that is looked up where there are none."""
    if not words:
        return resolve(kernel, problem)
    *sizes, num_warps, num_stages = words
    blocks = dict(zip(names, sizes, strict=True))
    return Config(blocks=blocks, num_warps=num_warps, num_stages=num_stages)


def num_programs(num_tiles: int, max_programs: int | None, *, at_most: int) -> int:
    """One program a tile, unless the caller's budget or the kernel itself allows fewer."""
    return min(num_tiles, at_most, at_most if max_programs is None else max_programs)


def check_budget(max_programs: int | None) -> None:
    """A budget of programs is None or positive."""
    if max_programs is not None and max_programs < 1:
        raise PipelineError(f"max_programs is {max_programs}: give 1 or more, or None")


def check_place(name: str, tensor: torch.Tensor) -> None:
    """On a GPU, or anywhere where Triton's interpreter runs the kernels."""
    if tensor.device.type == "cpu" and not (
        torch.compiler.is_compiling() or knobs.runtime.interpret
    ):
        raise PipelineError(f"{name} is on the CPU, which no kernel can read: move it to a GPU")


def check_tensor(
    name: str,
    tensor: torch.Tensor,
    *,
    like: torch.Tensor,
    dtypes: Sequence[torch.dtype] = (),
    shape: Sequence[int] | None = None,
) -> None:
    """A contiguous tensor on the device of `like`, of one of `dtypes` and of this shape."""
    if tensor.device != like.device:
        raise PipelineError(f"{name} is on {tensor.device}, not on {like.device}: move it there")
    if dtypes and tensor.dtype not in dtypes:
        allowed = " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
        raise PipelineError(f"{name} is {tensor.dtype}: give {allowed}")
    if shape is not None and tuple(tensor.shape) != tuple(shape):
        raise PipelineError(f"{name} has shape {tuple(tensor.shape)}: give {tuple(shape)}")
    if not tensor.is_contiguous():
        raise PipelineError(f"{name} is not contiguous: call .contiguous() on it")
