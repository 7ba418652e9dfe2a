"""The benchmark's own file: incompressible, and every byte of it known by its place.

Stands under `targets`, which makes one, and `lanes`, which compare with it.  Invariant: the content
is a function of seed and offset alone, so bytes of another place, or old ones, are seen.

Source of the mixing: Steele, Lea and Flood, "Fast splittable pseudorandom number generators"
(OOPSLA 2014), splitmix64; word i is the i-th output of the generator seeded with `seed`.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from iopipe.bench.storage.jobs import in_binary
from iopipe.errors import StorageError

_GOLDEN = 0x9E3779B97F4A7C15
_WRITE_BYTES = 1 << 20
_WORD = 8


def content(offset: int, length: int, *, seed: int) -> npt.NDArray[np.uint8]:
    """Bytes `offset` to `offset + length` of the file of this seed."""
    first, end = offset // _WORD, -(-(offset + length) // _WORD)
    words = np.arange(first + 1, end + 1, dtype=np.uint64)
    words *= np.uint64(_GOLDEN)
    words += np.uint64(seed)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        words ^= words >> np.uint64(shift)
        words *= np.uint64(factor)
    words ^= words >> np.uint64(31)
    start = offset - first * _WORD
    return words.astype("<u8", copy=False).view(np.uint8)[start : start + length]


def first_difference(found: memoryview, expected: npt.NDArray[np.uint8]) -> int | None:
    """The index of the first byte that is not as expected."""
    seen = np.frombuffer(found, np.uint8)
    if np.array_equal(seen, expected):
        return None
    return int(np.flatnonzero(seen != expected)[0])


def write_test_file(path: Path, num_bytes: int, *, seed: int) -> None:
    """Make the file and bring it to the device; `StorageError` where there is no room or no
    permission, and then nothing is left behind."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _cannot(path, num_bytes, error) from error
    try:
        # All at once, so that a full disk says so before a minute of writing.
        os.posix_fallocate(descriptor, 0, num_bytes)
        for offset in range(0, num_bytes, _WRITE_BYTES):
            piece = content(offset, min(_WRITE_BYTES, num_bytes - offset), seed=seed).data
            while piece:
                piece = piece[os.write(descriptor, piece) :]
        os.fsync(descriptor)
    except BaseException as error:
        os.unlink(path)
        if isinstance(error, OSError):
            raise _cannot(path, num_bytes, error) from error
        raise
    finally:
        os.close(descriptor)


def _cannot(path: Path, num_bytes: int, error: OSError) -> StorageError:
    remedy = {
        errno.EACCES: "give this user write permission there, or name existing files",
        errno.EPERM: "give this user write permission there, or name existing files",
        errno.EROFS: "name existing files, or another folder",
        errno.ENOSPC: "make room, or give a smaller --size",
        errno.EDQUOT: "make room, or give a smaller --size",
    }.get(error.errno or 0, "name existing files, or another folder")
    said = (error.strerror or str(error)).lower()
    return StorageError(
        f"cannot write a test file of {in_binary(num_bytes)} in {str(path.parent)!r}: {said}; "
        f"{remedy}"
    )
