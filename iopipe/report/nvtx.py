"""NVTX ranges around waiting and stepping, for Nsight Systems.

Stands between a loader and the training loop, opt-in.  Invariant: batches pass unchanged,
and every range that is begun is ended.  Source: NVTX 3, Python annotations of NVIDIA/NVTX.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from iopipe.errors import MissingDependency

T = TypeVar("T")


def with_ranges(loader: Iterable[T], *, domain: str = "iopipe") -> Iterator[T]:
    """The same batches; 'wait for batch' while one is asked for, 'step N' until the next is.

    `MissingDependency` without nvtx, at once.
    """
    try:
        import nvtx
    except ImportError as error:
        raise MissingDependency(
            "iopipe.report.nvtx needs nvtx: pip install 'iopipe[nvtx]'"
        ) from error
    return _ranged(loader, nvtx.annotate, domain)


def _ranged(loader: Iterable[T], annotate: Callable[..., Any], domain: str) -> Iterator[T]:
    batches = iter(loader)
    step = 0
    while True:
        with annotate("wait for batch", domain=domain):
            try:
                batch = next(batches)
            except StopIteration:
                return
        with annotate(f"step {step}", domain=domain):
            yield batch
        step += 1
