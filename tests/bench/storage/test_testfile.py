"""The benchmark's own file: known by arithmetic, seen to be wrong, cleaned away."""

from __future__ import annotations

import errno
import os
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iopipe.bench.storage.targets import target_of
from iopipe.bench.storage.testfile import content, first_difference, write_test_file
from iopipe.errors import NotFoundError, StorageError

MASK = (1 << 64) - 1


def _twin(offset: int, length: int, seed: int) -> bytes:
    """splitmix64 as in the paper, in whole numbers."""
    words = b""
    for index in range(offset // 8, (offset + length + 7) // 8):
        z = (seed + (index + 1) * 0x9E3779B97F4A7C15) & MASK
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        words += (z ^ (z >> 31)).to_bytes(8, "little")
    start = offset % 8
    return words[start : start + length]


@given(st.integers(0, 1 << 40), st.integers(0, 50), st.integers(0, (1 << 63) - 1))
def test_content_is_splitmix(offset: int, length: int, seed: int) -> None:
    assert content(offset, length, seed=seed).tobytes() == _twin(offset, length, seed)


def test_the_first_outputs_of_seed_0_are_the_published_ones() -> None:
    # Vigna's splitmix64.c and Java's SplittableRandom begin so for seed 0.
    words = content(0, 16, seed=0).view("<u8")
    assert [hex(word) for word in words] == ["0xe220a8397b1dcdaf", "0x6e789e6aa1b965f4"]


def test_it_cannot_be_compressed() -> None:
    data = content(0, 1 << 20, seed=1).tobytes()
    assert len(zlib.compress(data, 9)) > 0.999 * len(data)


def test_a_wrong_byte_and_another_place_are_seen() -> None:
    expected = content(4096, 4096, seed=3)
    found = bytearray(expected.tobytes())
    assert first_difference(memoryview(found), expected) is None
    found[77] ^= 1
    assert first_difference(memoryview(found), expected) == 77
    assert first_difference(memoryview(content(8192, 4096, seed=3)), expected) is not None
    assert first_difference(memoryview(content(4096, 4096, seed=4)), expected) is not None


def test_a_target_is_made_and_taken_away(tmp_path: Path) -> None:
    with target_of(str(tmp_path), size_bytes=(1 << 20) + 5) as target:
        ((path, size),) = target.files
        data = np.fromfile(path, np.uint8)
        assert size == len(data) == (1 << 20) + 5
        assert target.seed is not None
        assert np.array_equal(data, content(0, size, seed=target.seed))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(KeyboardInterrupt), target_of(str(tmp_path), size_bytes=1000):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_files_patterns_and_folders_are_read_as_they_are(tmp_path: Path) -> None:
    for name, size in (("a.tar", 5), ("b.tar", 7), ("empty.tar", 0), ("c.txt", 9)):
        (tmp_path / name).write_bytes(bytes(size))
    for asked, sizes in (("a.tar", [5]), ("*.tar", [5, 7]), ("", [5, 7, 9])):
        with target_of(str(tmp_path / asked), size_bytes=0, makes=False) as target:
            assert [size for _, size in target.files] == sizes
            assert target.seed is None
    for asked, error in (("none.tar", NotFoundError), ("*.mp4", NotFoundError)):
        with pytest.raises(error), target_of(str(tmp_path / asked), size_bytes=0):
            pass
    with (
        pytest.raises(StorageError, match="not a byte"),
        target_of(str(tmp_path / "empty.tar"), size_bytes=0),
    ):
        pass


@pytest.mark.parametrize(
    ("code", "said"),
    [(errno.ENOSPC, "no space left on device; make room"), (errno.EACCES, "give this user write")],
)
def test_no_room_and_no_permission_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, said: str
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with pytest.raises(StorageError) as caught:
        write_test_file(tmp_path / "a", 1 << 20, seed=0)
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_may_not_be_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(StorageError, match=r"permission denied; give this user write permission"):
        write_test_file(tmp_path / "a", 100, seed=0)
