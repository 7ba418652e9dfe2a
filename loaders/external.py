"""`iopipe.external_source`: our readers and order inside a user's own DALI pipeline.

Stands at the end of the flow, where else the run hands batches to a training step.  Invariant:
encoded images and videos are views of what was read, from the storage's bytes to DALI's decoder;
batches that DALI may still read are kept.

Source: https://docs.nvidia.com/deeplearning/dali, fn.external_source of version 2.4.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from iopipe.errors import PipelineError
from iopipe.loaders.decode.stage import decoded
from iopipe.pipeline import Pipeline
from iopipe.protocols import Column, Samples
from iopipe.stages import Stage

_KEPT_BATCHES = 8
"""DALI reads a batch as many runs after it took it as its queues are deep, 2 by default."""


def external_source(
    pipeline: Pipeline, *, columns: Sequence[str], epoch: int = 0, keep_batches: int = _KEPT_BATCHES
) -> ExternalSource:
    """What `fn.external_source` of a DALI pipeline takes as its `source`.

    `pipeline` is read(...), shuffle and split as wished, and batch(n), without decode: DALI
    decodes.  Of each batch it gives one item for each of `columns`: images and videos as a list of
    uint8 [bytes], not copied, numbers as an array [n], other bytes as a list of uint8 [bytes].

        images = iopipe.external_source(pipeline, columns=("jpg", "cls"))
        jpg, cls = fn.external_source(images, num_outputs=2, cycle="raise", no_copy=True)

    With cycle='raise' or 'quiet' DALI asks for epoch after epoch, each in an order of its own.
    `keep_batches` are kept for DALI to read: more than its prefetch_queue_depth.
    """
    if pipeline.batch_size is None:
        raise PipelineError("DALI takes batches: call batch(n) before external_source")
    if any(stage.takes == "samples" for stage in pipeline.stages):
        raise PipelineError("DALI decodes: leave decode and map before batch out")
    if (pipeline.device or "cpu") != "cpu":
        raise PipelineError("DALI moves batches to its device itself: leave to(...) out")
    missing = [name for name in columns if name not in pipeline.source.columns]
    if missing:
        raise PipelineError(
            f"the dataset has no columns {missing}: give some of {pipeline.source.columns}"
        )
    viewing = Stage(
        name="view", function=_viewed, takes="samples", cause="decode", whole_batches=True
    )
    return ExternalSource(
        replace(pipeline, stages=(viewing, *pipeline.stages)), columns, epoch, keep_batches
    )


class ExternalSource:
    """Iterable: each `iter` runs the next epoch.  For one thread, as DALI uses it."""

    def __init__(
        self, pipeline: Pipeline, columns: Sequence[str], epoch: int, keep_batches: int
    ) -> None:
        self._pipeline = pipeline
        self._columns = tuple(columns)
        self._kept: deque[Any] = deque(maxlen=keep_batches)
        self.next_epoch = epoch
        """The one that the next `iter` goes through."""

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        epoch, self.next_epoch = self.next_epoch, self.next_epoch + 1
        return self._batches(epoch)

    def _batches(self, epoch: int) -> Iterator[tuple[Any, ...]]:
        with self._pipeline.run(epoch=epoch) as run:
            for batch in run:
                made = tuple(_for_dali(batch[name]) for name in self._columns)
                self._kept.append(made)
                yield made


@dataclass(frozen=True, slots=True)
class _Bytes:
    """One row of bytes; no array, so that the collation leaves it where it is."""

    array: npt.NDArray[np.uint8]


def _viewed(samples: Samples) -> Samples:
    """Images and videos as views, other fields as their extension says."""
    return decoded(samples, images=_views, videos=_views)


def _views(_: str, column: Column, samples: Samples) -> Column:
    return [_Bytes(np.frombuffer(row, np.uint8)) for row in column]


def _for_dali(column: Any) -> Any:
    if isinstance(column, torch.Tensor):
        return column.numpy()
    return [_array(row) for row in column]


def _array(row: Any) -> npt.NDArray[Any]:
    if isinstance(row, _Bytes):
        return row.array
    if isinstance(row, str):
        row = row.encode()
    if isinstance(row, bytes):
        return np.frombuffer(row, np.uint8)
    return np.asarray(row)
