"""Grain over ArrayRecord files; --threads threads, or --workers processes where they are given."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grain
import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter
from peer import loose_files, run
from transform import Transform

_NUM_FILES = 20
_BUFFERED_SAMPLES = 500


def prepare(dataset: Path) -> None:
    (dataset / "array_record").mkdir()
    files = loose_files(dataset)
    for number in range(_NUM_FILES):
        path = dataset / "array_record" / f"shard-{number:03d}"
        writer = ArrayRecordWriter(str(path), "group_size:1")
        for image in files[number::_NUM_FILES]:
            writer.write(image.read_bytes())
        writer.close()


def batches(options: argparse.Namespace) -> Iterator[Any]:
    files = sorted(str(path) for path in (options.dataset / "array_record").iterdir())
    dataset = grain.MapDataset.source(grain.sources.ArrayRecordDataSource(files)).seed(0)
    if options.shuffle != "none":
        dataset = dataset.shuffle()
    transform = Transform(options.size, options.fidelity)
    mapped = dataset.repeat().map(lambda content: np.ascontiguousarray(transform(content)))
    threads = 0 if options.workers else options.threads
    reading = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=_BUFFERED_SAMPLES)
    batched = mapped.to_iter_dataset(reading).batch(options.batch, drop_remainder=True)
    if options.workers:
        batched = batched.mp_prefetch(grain.MultiprocessingOptions(num_workers=options.workers))
    return iter(batched)


if __name__ == "__main__":
    run(batches, prepare)
