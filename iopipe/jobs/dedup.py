"""Which samples are the same as an earlier one: by 128-bit hashes, sorted through files.

Stands before the plan of a job that leaves out duplicates.  Invariant: memory is bounded by
one part of the hashes, whatever the size of the dataset; the first of equal samples stays.

Two samples count as equal when 128 bits of XXH3 over their fields are: among 1e12 different
samples two such meet by chance with a probability below 1e-14 (the birthday bound).
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from iopipe.jobs.reading import Job, Reader
from iopipe.jobs.upload import mapped_errors
from iopipe.protocols import Int64Array
from iopipe.readers.checksums import fingerprint128

_CHUNK_SAMPLES = 64
_PART_HASHES = 1 << 24
_HASH = np.dtype([("high", "<u8"), ("low", "<u8"), ("sample", "<i8")])


def hashes_path(job: Job, run: int) -> Path:
    return Path(job.scratch, f"hashes-{run:06d}.npy")


def write_hashes(reader: Reader, run: int, samples_per_run: int) -> None:
    """Hash one stretch of the source's samples and store the hashes, sorted.

    Samples that cannot be read are left in: the task that comes to them rejects them.
    """
    path = hashes_path(reader.job, run)
    if path.exists():
        return
    first = run * samples_per_run
    last = min(first + samples_per_run, len(reader.source))
    table = np.zeros(last - first, _HASH)
    count = 0
    for start in range(first, last, _CHUNK_SAMPLES):
        ids = np.arange(start, min(start + _CHUNK_SAMPLES, last))
        samples, _ = reader.read(ids, ids)
        for sample, fields in samples:
            value = fingerprint128(fields)
            table[count] = (value >> 64, value & (1 << 64) - 1, sample)
            count += 1
    _save(path, np.sort(table[:count], order=("high", "low", "sample")))


def duplicates(paths: list[Path]) -> Int64Array:
    """The samples that are the same as one with a smaller id, sorted; reads the hashes of one
    range of values at a time."""
    tables = [np.load(path, mmap_mode="r", allow_pickle=False) for path in paths]
    num_parts = max(1, sum(map(len, tables)) // _PART_HASHES)
    edges = [part * (1 << 64) // num_parts for part in range(1, num_parts)]
    found = [np.empty(0, np.int64)]
    starts = [0] * len(tables)
    for edge in [*edges, None]:
        ends = [
            len(table) if edge is None else int(np.searchsorted(table["high"], np.uint64(edge)))
            for table in tables
        ]
        pieces = [t[a:b] for t, a, b in zip(tables, starts, ends, strict=True)]
        found.append(_repeated(np.concatenate([np.zeros(0, _HASH), *pieces])))
        starts = ends
    return np.sort(np.concatenate(found))


def _repeated(part: npt.NDArray[np.void]) -> Int64Array:
    ordered = np.sort(part, order=("high", "low", "sample"))
    same = ordered["high"][1:] == ordered["high"][:-1]
    same &= ordered["low"][1:] == ordered["low"][:-1]
    repeated: Int64Array = ordered["sample"][1:][same]
    return repeated


def _save(path: Path, table: npt.NDArray[np.void]) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with mapped_errors(str(path.parent)):
        with open(temporary, "wb") as file:
            np.save(file, table, allow_pickle=False)
        os.replace(temporary, path)
