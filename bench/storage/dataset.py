"""The files of a workload: as many and as large as its samples, or one's own files.

Stands between `workloads` and `emulation`.  Invariant: samples tile the files; what was made is
gone when the block that made it is left.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from iopipe.bench.storage.jobs import in_binary
from iopipe.bench.storage.page_cache import drop
from iopipe.bench.storage.surroundings import memory_bytes
from iopipe.bench.storage.targets import Target, target_of
from iopipe.bench.storage.testfile import write_test_file
from iopipe.bench.storage.workloads import Workload
from iopipe.errors import PipelineError, StorageError
from iopipe.protocols import ByteRange

MEMORY_MULTIPLE = 5
"""Of the host's memory: the rule of MLPerf Storage, so that the page cache cannot serve it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    target: Target
    samples: tuple[ByteRange, ...]

    @property
    def num_bytes(self) -> int:
        return sum(sample.length for sample in self.samples)

    def warning(self) -> str | None:
        """What the size makes of the figures; None where it is large enough."""
        memory = memory_bytes()
        if self.num_bytes >= MEMORY_MULTIPLE * memory:
            return None
        return (
            f"the dataset of {in_binary(self.num_bytes)} is smaller than {MEMORY_MULTIPLE} times "
            f"the memory ({in_binary(memory)}): from the second time on samples may come from "
            "the page cache"
        )

    def drop_page_cache(self) -> None:
        if self.target.is_local and not self.target.in_memory:
            for path in self.target.paths:
                drop(path)


@contextmanager
def dataset_of(name: str, workload: Workload, *, size_bytes: int) -> Iterator[Dataset]:
    """In a folder, files are made for it; files and URLs that are there are cut into samples."""
    with (
        target_of(name, size_bytes=0, makes=False)
        if not _is_folder(name)
        else _made(Path(name), workload, size_bytes) as target
    ):
        samples = tuple(_cut(target, workload))
        if not samples:
            raise PipelineError(
                f"not one sample of {in_binary(workload.sample_bytes)} fits in "
                f"{in_binary(target.num_bytes)}: give a larger --size"
            )
        yield Dataset(target=target, samples=samples)


def _is_folder(name: str) -> bool:
    return "://" not in name and Path(name).is_dir()


@contextmanager
def _made(folder: Path, workload: Workload, size_bytes: int) -> Iterator[Target]:
    """As many whole files as `size_bytes` hold, one at least."""
    place = folder / f"iopipe-bench-{secrets.token_hex(6)}.tmp"
    seed = secrets.randbits(63)
    per_file = workload.samples_per_file
    num_files = max(1, size_bytes // (workload.sample_bytes * per_file))
    sizes = workload.sizes(num_files * per_file, seed=0).reshape(num_files, per_file).sum(axis=1)
    if per_file > 1 and sizes[0] > size_bytes:
        sizes = np.array([size_bytes // workload.sample_bytes * workload.sample_bytes])
    _make_folder(place)
    try:
        files = []
        for number, size in enumerate(sizes.tolist()):
            path = place / f"{number:06d}.bin"
            write_test_file(path, size, seed=seed + number)
            files.append((str(path), size))
        yield Target(name=str(folder), files=tuple(files))
    finally:
        shutil.rmtree(place)


def _make_folder(place: Path) -> None:
    try:
        place.mkdir()
    except OSError as error:
        said = (error.strerror or "").lower()
        raise StorageError(
            f"cannot make a folder in {str(place.parent)!r}: {said}; "
            "give this user write permission there, or name existing files"
        ) from error


def _cut(target: Target, workload: Workload) -> Iterator[ByteRange]:
    """A file of one sample is that sample; the others hold one behind the other."""
    for number, (path, size) in enumerate(target.files):
        if workload.samples_per_file == 1:
            yield ByteRange(path, 0, size)
            continue
        start = 0
        for length in workload.sizes(workload.samples_per_file, seed=number).tolist():
            if start + length > size:
                break
            yield ByteRange(path, start, length)
            start += length
