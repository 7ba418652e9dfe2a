"""SPDL over loose files: each task makes a whole batch, in one of --threads threads."""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from peer import loose_files, run
from spdl.pipeline import PipelineBuilder
from transform import Transform


def lists_of_files(options: argparse.Namespace) -> Iterator[list[Path]]:
    files = loose_files(options.dataset)
    while True:
        if options.shuffle != "none":
            random.shuffle(files)
        for first in range(0, len(files) - options.batch + 1, options.batch):
            yield files[first : first + options.batch]


def batches(options: argparse.Namespace) -> Iterator[Any]:
    transform = Transform(options.size, options.fidelity)

    def batch_of(files: list[Path]) -> Any:
        pixels = np.empty((len(files), options.size, options.size, 3), np.uint8)
        for row, path in enumerate(files):
            pixels[row] = transform(path.read_bytes())
        return pixels

    pipeline = (
        PipelineBuilder()
        .add_source(lists_of_files(options))
        .pipe(batch_of, concurrency=options.threads)
        .add_sink(3)
        .build(num_threads=options.threads)
    )
    with pipeline.auto_stop():
        yield from pipeline


if __name__ == "__main__":
    run(batches)
