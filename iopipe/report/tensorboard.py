"""Reports as scalars for TensorBoard.

Stands at the end of `live`, opt-in.  Invariant: the names are those of `metrics`.
"""

from __future__ import annotations

from typing import Any, Protocol

from iopipe.errors import MissingDependency
from iopipe.report.live import Content
from iopipe.report.metrics import scalars_of


class ScalarWriter(Protocol):
    """torch.utils.tensorboard's SummaryWriter, or what looks like it."""

    def add_scalar(self, tag: str, scalar_value: Any, global_step: Any = None) -> object: ...


class TensorBoardScalars:
    """Adds each report's numbers at its step; the writer is its owner's to close."""

    def __init__(self, writer: ScalarWriter) -> None:
        self._writer = writer

    def show(self, content: Content) -> None:
        step = int(content.get("num_steps", 0))
        for name, value in scalars_of(content).items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """The writer is its owner's."""


def open_writer(folder: str) -> Any:
    """A `SummaryWriter` on a folder; `MissingDependency` without TensorBoard."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingDependency(
            "iopipe.report.tensorboard needs tensorboard: pip install 'iopipe[tensorboard]'"
        ) from error
    return SummaryWriter(folder)
