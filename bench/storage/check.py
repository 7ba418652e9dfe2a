"""Whether what was read is what should have been read.

Stands beside `measure`, which hands over each submission.  Invariant: a byte that differs ends the
run with the path and the offset of the first one.
"""

from __future__ import annotations

import os
from typing import Protocol

import numpy as np

from iopipe.bench.storage.targets import Target
from iopipe.bench.storage.testfile import content, first_difference
from iopipe.errors import DataError, PipelineError
from iopipe.storage.posix import plain_path


class Verifier(Protocol):
    def check(self, path: str, offset: int, found: memoryview) -> None:
        """`DataError` where `found` is not what lies at `offset`."""
        ...


def verifier_for(target: Target) -> Verifier:
    """The benchmark's own file is known by arithmetic; other local files are read once more, by
    plain pread(2) through the page cache."""
    if target.seed is not None:
        return _Known(target.seed)
    if not target.is_local:
        raise PipelineError(
            "--verify needs local files: for URLs there is nothing else to compare with"
        )
    return _ReadAgain()


class _Known:
    def __init__(self, seed: int) -> None:
        self._seed = seed

    def check(self, path: str, offset: int, found: memoryview) -> None:
        expected = content(offset, len(found), seed=self._seed)
        _raise_at(first_difference(found, expected), path, offset)


class _ReadAgain:
    def check(self, path: str, offset: int, found: memoryview) -> None:
        descriptor = os.open(plain_path(path), os.O_RDONLY | os.O_CLOEXEC)
        try:
            expected = np.frombuffer(os.pread(descriptor, len(found), offset), np.uint8)
        finally:
            os.close(descriptor)
        if len(expected) != len(found):
            raise DataError("the file was cut while it was read", shard=path, offset=offset)
        _raise_at(first_difference(found, expected), path, offset)


def _raise_at(index: int | None, path: str, offset: int) -> None:
    if index is not None:
        raise DataError(
            "the byte read is not the byte that lies there; the storage, its cache or the "
            "backend gives wrong data",
            shard=path,
            offset=offset + index,
        )
