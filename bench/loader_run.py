"""One run of our own loader: `python -m iopipe.bench.loader_run DATASET`, a row of JSON.

Stands between a pipeline and its clock.  Invariant: what is measured is the pipeline that a
user would write for these options, and nothing runs beside it.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Generator
from typing import Any

import iopipe
from iopipe.bench.measure import add_options, measured, show
from iopipe.loaders.decode.stage import IMAGE_EXTENSIONS
from iopipe.pipeline import Pipeline
from iopipe.protocols import Source
from iopipe.readers.tokens import TokenSource

_WINDOW = 2049
"""Tokens of a sample of a flat file: 2048 and the one behind, for the labels."""


def opened(dataset: str) -> tuple[Source, bool]:
    """The dataset, and whether it holds images, which are then all that is read of it."""
    if dataset.endswith(".bin") and not os.path.exists(dataset.removesuffix(".bin") + ".idx"):
        return iopipe.open_source(dataset, options=iopipe.OpenOptions(window=_WINDOW)), False
    source = iopipe.open_source(dataset)
    images = [name for name in source.columns if name.rsplit(".", 1)[-1] in IMAGE_EXTENSIONS]
    if not images or isinstance(source, TokenSource):
        return source, False
    return iopipe.open_source(dataset, columns=images[:1]), True


def pipeline_of(options: argparse.Namespace) -> Pipeline:
    """What the options of `measure.add_options` ask for."""
    source, has_images = opened(options.dataset)
    pipeline = iopipe.read(source).shuffle(seed=0, mode=options.shuffle)
    if has_images:
        images = iopipe.ImageOptions(
            size=(options.size, options.size),
            crop="random",
            flip=True,
            fidelity=options.fidelity,
            engine=options.decode,
        )
        pipeline = pipeline.decode(images, concurrency=options.threads or None)
    pipeline = pipeline.batch(options.batch, drop_last=True)
    if options.device != "cpu":
        pipeline = pipeline.to(options.device)
    return pipeline.workers(options.workers or 0)


def main() -> None:
    """Measure once and print the row."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_options(parser)
    options = parser.parse_args()

    def counted() -> Generator[tuple[int, int], None, None]:
        with pipeline_of(options).run(num_epochs=None) as run:
            for batch in run:
                yield len(batch["__key__"]), sum(map(_num_bytes, batch.values()))

    show(measured(counted, options, wait=_waiter(options.device)))


def _waiter(device: str) -> Callable[[], object]:
    if device == "cpu":
        return lambda: None
    import torch

    return torch.cuda.synchronize


def _num_bytes(column: Any) -> int:
    """Of a column of a batch; keys and other text do not count."""
    if hasattr(column, "nbytes"):
        return int(column.nbytes)
    return sum(len(value) for value in column if isinstance(value, bytes | memoryview))


if __name__ == "__main__":
    main()
