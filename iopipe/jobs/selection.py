"""Which samples of the source belong to which output: splits, and what is left out.

Stands before the plan of a job that splits or leaves out duplicates.  Invariant: where a
sample goes depends on its key and its content, not on the other samples' number or order.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xxhash

from iopipe.protocols import Int64Array, Source, Store
from iopipe.readers.keys import keys_of

_CHUNK_SAMPLES = 1 << 16


def split_of(key: str, shares: Sequence[float]) -> int:
    """The number of the split that a key falls into: its XXH3-64 as a fraction, against the
    sums of the shares."""
    place = xxhash.xxh3_64_intdigest(key.encode("utf-8", "surrogatepass")) / 2.0**64
    for number, edge in enumerate(itertools.accumulate(shares)):
        if place < edge:
            return number
    return len(shares) - 1


def write_selections(
    source: Source, store: Store, shares: Sequence[float], left_out: Int64Array, folder: Path
) -> list[tuple[str, int]]:
    """One file of int64 sample ids for each share, without those `left_out` (sorted); their
    paths and lengths.  Takes about 5 us a sample, for its key, or the reading of it."""
    paths = [folder / f"selection-{number:03d}.i64" for number in range(max(1, len(shares)))]
    temporary = [path.with_name(f"{path.name}.{os.getpid()}.tmp") for path in paths]
    counts = [0] * len(paths)
    files = [open(path, "wb") for path in temporary]
    try:
        for first in range(0, len(source), _CHUNK_SAMPLES):
            ids = np.arange(first, min(first + _CHUNK_SAMPLES, len(source)), dtype=np.int64)
            ids = np.setdiff1d(ids, left_out, assume_unique=True)
            for number, part in enumerate(_parts(source, store, ids, shares)):
                part.tofile(files[number])
                counts[number] += len(part)
    finally:
        for file in files:
            file.close()
    for before, path in zip(temporary, paths, strict=True):
        os.replace(before, path)
    return [(str(path), count) for path, count in zip(paths, counts, strict=True)]


def _parts(
    source: Source, store: Store, ids: Int64Array, shares: Sequence[float]
) -> list[Int64Array]:
    if not shares:
        return [ids]
    splits = np.array([split_of(key, shares) for key in keys_of(source, ids, store)], np.int64)
    return [ids[splits == number] for number in range(len(shares))]
