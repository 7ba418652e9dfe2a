"""The file under the encoders: the same bytes and checksum, written at once or behind."""

from __future__ import annotations

import os
import resource
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import xxhash

from iopipe.readers.sink import HashedFile


@pytest.fixture
def pieces() -> list[bytes]:
    generator = np.random.default_rng(3)
    sizes = [0, 1, 511, 3 << 20, *generator.integers(0, 300_000, 40).tolist(), *[7] * 1500]
    return [generator.bytes(size) for size in sizes]


@pytest.mark.parametrize("is_behind", [False, True])
def test_bytes_and_checksum(tmp_path: Path, pieces: list[bytes], is_behind: bool) -> None:
    file = HashedFile(tmp_path / "file", is_behind=is_behind)
    for number, piece in enumerate(pieces):
        changing = bytearray(piece)
        assert file.write(changing if number % 2 else piece) == len(piece)
        changing[:] = bytes(len(piece))  # its owner may
    file.close()
    whole = b"".join(pieces)
    assert (tmp_path / "file").read_bytes() == whole
    assert file.checksum == xxhash.xxh3_64_hexdigest(whole)
    assert file.num_bytes == len(whole)
    assert "iopipe-behind" not in {thread.name for thread in threading.enumerate()}


@pytest.fixture
def full_disk() -> Iterator[None]:
    """Files cannot grow beyond 2 MB."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, limit[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    signal.signal(signal.SIGXFSZ, before)


@pytest.mark.parametrize("is_behind", [False, True])
@pytest.mark.usefixtures("full_disk")
def test_what_fails_is_raised_and_nothing_stays_open(tmp_path: Path, is_behind: bool) -> None:
    num_open = len(os.listdir("/proc/self/fd"))
    file = HashedFile(tmp_path / "file", is_behind=is_behind)
    with pytest.raises(OSError, match="too large"):  # by a write, or by the close at last
        for _ in range(3):
            file.write(bytes(1 << 20))
        file.close()
    file.discard()
    file.discard()
    assert len(os.listdir("/proc/self/fd")) == num_open
    assert "iopipe-behind" not in {thread.name for thread in threading.enumerate()}
