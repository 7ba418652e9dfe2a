"""What only O_DIRECT demands: alignment, which is asked for, kept, and refused in words."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iopipe.errors import PipelineError, StorageError
from iopipe.protocols import ReadRequest
from iopipe.storage import DirectStore, alignment, open_store
from iopipe.storage.alignment import ASSUMED, Alignment, ask_alignment, pieces
from iopipe.storage.descriptors import OpenFile

POWERS = st.sampled_from([1, 4, 512, 4096])


@given(
    offset=st.integers(0, 20_000),
    length=st.integers(0, 40_000),
    address=st.integers(4096, 20_000),
    memory=POWERS,
    align=POWERS,
    bounce=st.sampled_from([4096, 8192]),
)
def test_pieces_cover_a_request_once_and_suit_the_kernel(
    offset: int, length: int, address: int, memory: int, align: int, bounce: int
) -> None:
    end = 0
    for piece in pieces(
        offset,
        length,
        address=address,
        alignment=Alignment(memory, align),
        bounce_bytes=bounce,
    ):
        assert piece.start == end and piece.offset + piece.skip == offset + end
        assert piece.offset % align == 0 and piece.length % align == 0
        assert 0 < piece.wanted <= piece.length - piece.skip
        if piece.in_place:
            assert (address + piece.start) % memory == 0 and piece.wanted == piece.length
        else:
            assert piece.length <= bounce
        end += piece.wanted
    assert end == length


def test_large_aligned_requests_are_read_in_place() -> None:
    found = list(pieces(4000, 1 << 20, address=8192 - 96, alignment=ASSUMED, bounce_bytes=8192))
    assert [(piece.wanted, piece.in_place) for piece in found] == [
        (96, False),
        ((1 << 20) - 4096, True),
        (4000, False),
    ]
    assert not any(
        piece.in_place
        for piece in pieces(0, 50_000, address=8193, alignment=ASSUMED, bounce_bytes=8192)
    )


def test_a_read_does_not_pass_through_the_page_cache(tmp_path: Path) -> None:
    """Pages that were dropped are still not there after a direct read, and are after another."""
    path = tmp_path / "a.bin"
    content = os.urandom(1 << 20)
    path.write_bytes(content)
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        before = _num_resident(mapped)
        if before == 256:
            pytest.skip("this filesystem (tmpfs) keeps its pages, whatever is asked")
        store, buffer = DirectStore(), bytearray(1 << 20)
        assert store.read_into(str(path), 0, memoryview(buffer)) == 1 << 20
        store.close()
        assert buffer == content
        assert _num_resident(mapped) == before < 256
        assert file.read() == content
        assert _num_resident(mapped) == 256


def _num_resident(mapped: mmap.mmap) -> int:
    """Pages in the cache, by mincore(2)."""
    address = np.frombuffer(mapped, np.uint8).ctypes.data
    answer = (ctypes.c_ubyte * (len(mapped) // mmap.PAGESIZE))()
    libc = ctypes.CDLL(None)
    assert libc.mincore(ctypes.c_void_p(address), ctypes.c_size_t(len(mapped)), answer) == 0
    return sum(page & 1 for page in answer)


def test_filesystem_that_refuses_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    opened = os.open

    def refusing(path: Any, flags: int, *rest: Any) -> int:
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return opened(path, flags, *rest)

    monkeypatch.setattr(os, "open", refusing)
    store = DirectStore()
    said = r"open '.*/a' with O_DIRECT: its filesystem serves no direct reads; use prefer='posix'"
    with pytest.raises(StorageError, match=said):
        store.read_into(str(tmp_path / "a"), 0, memoryview(bytearray(3)))


class Statx:
    """Stands for statx(2): mask, then the two alignments."""

    def __init__(self, mask: int, memory: int, offset: int, *, code: int = 0) -> None:
        self.mask, self.memory, self.offset, self.code = mask, memory, offset, code

    def __call__(self, fd: int, path: bytes, flags: int, mask: int, answer: Any) -> int:
        for at, number in ((0, self.mask), (0x98, self.memory), (0x9C, self.offset)):
            answer[at : at + 4] = number.to_bytes(4, "little")
        return self.code


def test_alignment_is_the_kernels_or_assumed(monkeypatch: pytest.MonkeyPatch) -> None:
    for statx, expected in (
        (Statx(0x27FF, 4, 512), Alignment(4, 512)),
        (Statx(0x7FF, 0, 0), ASSUMED),
        (Statx(0, 0, 0, code=-1), ASSUMED),
    ):
        monkeypatch.setattr(alignment, "_statx", lambda statx=statx: statx)
        assert ask_alignment(3, "a") == expected
    monkeypatch.setattr(alignment, "_statx", lambda: Statx(0x27FF, 0, 0))
    with pytest.raises(StorageError, match="'a' with O_DIRECT: its filesystem serves no direct"):
        ask_alignment(3, "a")


def test_blocks_larger_than_the_bounce_buffers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    monkeypatch.setattr(alignment, "_statx", lambda: Statx(0x27FF, 4, 1 << 16))
    monkeypatch.setattr(OpenFile, "is_in_memory", lambda file: False)
    store = DirectStore(bounce_bytes=8192)
    with pytest.raises(StorageError, match="wants 4 and 65536 bytes of alignment, bounce_bytes is"):
        store.read_into(str(tmp_path / "a"), 0, memoryview(bytearray(3)))
    store.close()


def test_what_lies_in_memory_is_read_in_place_at_any_offset(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A tmpfs has no blocks; its kernel takes O_DIRECT since Linux 6.6 and ignores it."""
    monkeypatch.setattr(DirectStore, "_read_pieces", None)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        path = os.path.join(folder, "a")
        data = os.urandom(10_000)
        Path(path).write_bytes(data)
        for store in (DirectStore(num_threads=0), DirectStore(num_threads=2)):
            room = memoryview(bytearray(5003))[1:]
            try:
                assert store.submit([ReadRequest(path, 77, room)]).wait() == [5002]
            except StorageError as error:
                if "serves no direct reads" in str(error):
                    pytest.skip(str(error))
                raise
            assert room == data[77 : 77 + 5002]
            store.close()


def test_without_threads_the_one_who_waits_reads(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    store, buffers = DirectStore(num_threads=0), [bytearray(3), bytearray(3)]
    first, second = (
        store.submit([ReadRequest(str(tmp_path / "a"), 0, memoryview(buffer))])
        for buffer in buffers
    )
    assert buffers[0] == bytes(3)
    assert first.wait() == first.wait() == [3] and buffers[0] == b"abc"
    store.close()
    assert first.wait() == [3]
    with pytest.raises(StorageError, match="closed"):
        second.wait()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"num_threads": -1}, "num_threads=-1 must be 0 or more"),
        ({"max_open_files": 0}, "max_open_files=0"),
        ({"bounce_bytes": 5000}, "bounce_bytes=5000: give a multiple of the page"),
    ],
)
def test_illegal_options(options: dict[str, Any], said: str) -> None:
    with pytest.raises(PipelineError, match=said):
        DirectStore(**options)


def test_open_store_gives_what_is_preferred_or_says_why_not(tmp_path: Path) -> None:
    for prefer, begins in (("posix", "posix:"), ("direct", "direct:"), ("mapped", "mapped:")):
        store = open_store(str(tmp_path), prefer=prefer)  # type: ignore[arg-type]
        assert store.describe().startswith(begins)
        store.close()
    calls: list[tuple[str, dict[str, Any], type[Exception], str]] = [
        ("a", {"prefer": "fast"}, PipelineError, "prefer is 'fast': give one of posix, direct"),
        ("a", {"prefer": "gds", "require": "speed"}, PipelineError, "require is 'speed'"),
        ("a", {"require": "gpudirect"}, PipelineError, "give prefer='gds' with it"),
        ("memory://a", {"prefer": "direct"}, StorageError, "is for local files, not for"),
    ]
    for url, options, error, said in calls:
        with pytest.raises(error, match=said):
            open_store(url, **options)
