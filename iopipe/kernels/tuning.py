"""How a kernel is launched: looked up, never searched for, when it runs.

Stands under every kernel.  Invariant: a configuration changes speed only; every one of a
kernel gives the same bits.  Nothing is timed here: `iopipe tune kernels` does that.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from iopipe.kernels import lookup
from iopipe.kernels.configs import Config, Kernel, Problem
from iopipe.kernels.gpus import current_gpu

__all__ = ["Config", "Kernel", "Problem", "forget", "observe", "resolve"]

_MAX_CHOICES = 4096

_choices: dict[tuple[object, ...], Config] = {}
_observer: Callable[[Kernel, Problem], None] | None = None


def resolve(kernel: Kernel, problem: Problem) -> Config:
    """The configuration to launch `kernel` with on the current device.

    The first that exists for the bucket of `problem`: tuned by the user (`IOPIPE_TUNE_DIR`),
    tuned on this machine (the cache folder), shipped for this GPU and minor version of Triton,
    shipped for its architecture, the kernel's heuristic.  What was found is remembered, so
    that a launch costs one look into a dictionary.  Sizes that are symbols of `torch.compile`
    become numbers: the compiled graph is then for these sizes.
    """
    observer = _observer  # looked at once: another thread may end the observing
    if observer is not None:
        observer(kernel, problem)
    shape = problem.shape
    initialised = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    device = torch.cuda.current_device() if initialised else None
    key = (kernel.name, device, problem.dtypes, *shape, *map(int, shape.values()))
    choice = _choices.get(key)
    return _choose(kernel, problem, key) if choice is None else choice


def _choose(kernel: Kernel, problem: Problem, key: tuple[object, ...]) -> Config:
    sizes = {name: int(size) for name, size in problem.shape.items()}
    plain = Problem(dtypes=problem.dtypes, shape=sizes)
    gpu = current_gpu()
    found = None if gpu is None else lookup.tuned(kernel, plain, gpu)
    choice = kernel.heuristic(plain) if found is None else found
    if len(_choices) >= _MAX_CHOICES:  # ragged sizes: let a few be looked up again
        _choices.clear()
    _choices[key] = choice
    return choice


def forget() -> None:
    """Read the files again when next asked: they, or `IOPIPE_TUNE_DIR`, have changed."""
    lookup.forget()
    _choices.clear()


def observe(observer: Callable[[Kernel, Problem], None] | None) -> None:
    """Show `observer` every problem that is resolved, until None takes its place."""
    global _observer
    _observer = observer
