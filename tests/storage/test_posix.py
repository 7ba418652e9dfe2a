"""What only files can do: be replaced, block, run out, refuse; and what `PosixStore` holds."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from iopipe.errors import PipelineError, StorageError
from iopipe.protocols import ReadRequest
from iopipe.storage import PosixStore

CONTENT = np.random.default_rng(3).integers(0, 256, 50_000, dtype=np.uint8).tobytes()


@pytest.fixture
def store() -> Iterator[PosixStore]:
    store = PosixStore(num_threads=3, max_open_files=4)
    yield store
    store.close()


@pytest.fixture
def path(tmp_path: Path) -> str:
    file = tmp_path / "a.bin"
    file.write_bytes(CONTENT)
    return str(file)


def read(store: PosixStore, path: str, offset: int = 0, length: int = len(CONTENT)) -> bytes:
    buffer = bytearray(length)
    return bytes(buffer[: store.read_into(path, offset, memoryview(buffer))])


def submit(store: PosixStore, paths: list[str], length: int = len(CONTENT)) -> list[bytes]:
    buffers = [bytearray(length) for _ in paths]
    requests = [
        ReadRequest(path, 0, memoryview(buffer))
        for path, buffer in zip(paths, buffers, strict=True)
    ]
    counts = store.submit(requests).wait()
    return [bytes(buffer[:count]) for buffer, count in zip(buffers, counts, strict=True)]


def open_below(folder: Path) -> int:
    """How many descriptors of this process lead into `folder`."""
    count = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            count += os.readlink(f"/proc/self/fd/{name}").startswith(str(folder))
        except FileNotFoundError:
            continue  # the listing's own descriptor
    return count


def pool_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("iopipe-posix")]


def has_nowait(path: str) -> bool:
    file = os.open(path, os.O_RDONLY)
    try:
        os.preadv(file, [bytearray(1)], 0, os.RWF_NOWAIT)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(file)
    return True


# ---- files that change ---------------------------------------------------------------


def test_replaced_file_is_not_read_from_the_old_descriptor(
    store: PosixStore, path: str, tmp_path: Path
) -> None:
    assert submit(store, [path]) == [CONTENT]
    version = store.version(path)
    for content in (b"second", b"the third"):
        (tmp_path / "new").write_bytes(content)
        os.replace(tmp_path / "new", path)
        assert submit(store, [path]) == [content]
        assert read(store, path) == content
    assert store.version(path) != version


def test_file_that_shrinks_during_a_read(
    store: PosixStore, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    preadv = os.preadv

    def shrinking(fd: int, buffers: list[memoryview], offset: int, flags: int = 0) -> int:
        num_bytes = preadv(fd, [buffers[0][:1000]], offset, flags)
        os.truncate(path, 1500)
        return num_bytes

    monkeypatch.setattr(os, "preadv", shrinking)
    assert read(store, path) == CONTENT[:1500]


def test_file_replaced_behind_a_partly_cached_read_is_not_mixed(
    store: PosixStore, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preadv = os.preadv
    other = bytes(len(CONTENT))

    def replacing(fd: int, buffers: list[memoryview], offset: int, flags: int = 0) -> int:
        if not flags:
            return preadv(fd, buffers, offset)
        num_bytes = preadv(fd, [buffers[0][:1000]], offset)
        (tmp_path / "new").write_bytes(other)
        os.replace(tmp_path / "new", path)
        return num_bytes

    read(store, path)
    monkeypatch.setattr(os, "preadv", replacing)
    assert submit(store, [path]) == [other]


# ---- short, cached and refused reads --------------------------------------------------


def test_short_reads_are_completed(
    store: PosixStore, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page cache holds parts only, and no call returns more than 999 bytes."""
    preadv = os.preadv
    draws = np.random.default_rng(5)
    lock = threading.Lock()

    def meagre(fd: int, buffers: list[memoryview], offset: int, flags: int = 0) -> int:
        with lock:
            length = int(draws.integers(1, 1000))
        if flags and length < 400:
            raise BlockingIOError(errno.EAGAIN, "not cached")
        return preadv(fd, [buffers[0][:length]], offset)

    read(store, path, 0, 1)
    monkeypatch.setattr(os, "preadv", meagre)
    assert submit(store, [path] * 50, 9_000) == [CONTENT[:9_000]] * 50


def test_cached_pages_are_read_without_threads(store: PosixStore, path: str) -> None:
    if not has_nowait(path):
        pytest.skip("this filesystem has no RWF_NOWAIT")
    read(store, path)
    assert submit(store, [path] * 10, 5_000) == [CONTENT[:5_000]] * 10
    assert pool_threads() == []


def test_first_and_large_reads_go_to_the_threads(store: PosixStore, tmp_path: Path) -> None:
    large = tmp_path / "large"
    large.write_bytes(CONTENT * 30)
    assert submit(store, [str(large)] * 4, 1_200_000) == [(CONTENT * 30)[:1_200_000]] * 4
    assert 1 <= len(pool_threads()) <= 3


def test_filesystem_without_nowait_is_asked_once(
    store: PosixStore, path: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    preadv = os.preadv
    flagged = []

    def refusing(fd: int, buffers: list[memoryview], offset: int, flags: int = 0) -> int:
        if flags:
            flagged.append(offset)
            raise OSError(errno.EOPNOTSUPP, "not supported")
        return preadv(fd, buffers, offset)

    read(store, path)
    assert "without" not in store.describe()
    monkeypatch.setattr(os, "preadv", refusing)
    caplog.set_level("INFO", "iopipe")
    for _ in range(3):
        assert submit(store, [path] * 5) == [CONTENT] * 5
    assert len(flagged) == 1
    assert "1 filesystems without RWF_NOWAIT" in store.describe()
    assert [record.name for record in caplog.records] == ["iopipe.storage.posix"]


def test_read_error_names_path_offset_and_remedy(
    store: PosixStore, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: Any) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "preadv", failing)
    said = r"cannot read 9 bytes at offset 5 of '.*a\.bin': input/output error; .*kernel log"
    with pytest.raises(StorageError, match=said) as caught:
        store.submit([ReadRequest(path, 5, memoryview(bytearray(9)))]).wait()
    assert isinstance(caught.value.__cause__, OSError)


# ---- descriptors and threads ----------------------------------------------------------


def test_open_files_are_bounded_and_given_back(tmp_path: Path) -> None:
    paths = []
    for index in range(30):
        paths.append(str(tmp_path / f"{index}"))
        Path(paths[-1]).write_bytes(CONTENT[index:])
    threads_before = set(threading.enumerate())
    store = PosixStore(num_threads=3, max_open_files=4)
    for _ in range(3):
        assert submit(store, paths) == [CONTENT[index:] for index in range(30)]
        assert 1 <= open_below(tmp_path) <= 4
    store.close()
    assert open_below(tmp_path) == 0
    assert set(threading.enumerate()) == threads_before


def test_dropped_store_gives_its_files_back(path: str, tmp_path: Path) -> None:
    store = PosixStore()
    read(store, path)
    assert open_below(tmp_path) == 1
    del store
    assert open_below(tmp_path) == 0


def test_file_in_use_outlives_the_cache(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read of `path` stands in the kernel while another file takes the one place."""
    other = tmp_path / "other"
    other.write_bytes(b"other")
    store = PosixStore(max_open_files=1)
    preadv = os.preadv
    inside, go_on = threading.Event(), threading.Event()

    def slow(fd: int, buffers: list[memoryview], offset: int, flags: int = 0) -> int:
        if threading.current_thread() is reader:
            inside.set()
            go_on.wait()
        return preadv(fd, buffers, offset, flags)

    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(read(store, path)))
    monkeypatch.setattr(os, "preadv", slow)
    reader.start()
    inside.wait()
    assert read(store, str(other)) == b"other"
    assert open_below(tmp_path) == 2
    go_on.set()
    reader.join()
    assert got == [CONTENT]
    assert open_below(tmp_path) == 1
    store.close()
    assert open_below(tmp_path) == 0


# ---- paths and options ----------------------------------------------------------------


def test_file_urls(store: PosixStore, tmp_path: Path) -> None:
    file = tmp_path / "a b.bin"
    file.write_bytes(CONTENT)
    for url in (file.as_uri(), file.as_uri().replace("file://", "file://localhost")):
        assert store.size(url) == len(CONTENT)
        assert read(store, url) == CONTENT
        assert submit(store, [url]) == [CONTENT]
        assert store.local_path(url) == str(file)
        assert store.glob(url) == [str(file)]
    with pytest.raises(StorageError, match="another host; write file:///absolute/path"):
        store.size("file://server/share/a.bin")


def test_a_link_that_leads_nowhere_hides_no_other_file(store: PosixStore, tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(CONTENT)
    (tmp_path / "b.tar").symlink_to(tmp_path / "b.tar")
    (tmp_path / "c.tar").symlink_to(tmp_path / "none")
    assert store.glob(f"{tmp_path}/*.tar") == [str(tmp_path / "a.tar")]


@pytest.mark.parametrize(
    ("advise", "expected"),
    [
        ("none", []),
        ("random", [os.POSIX_FADV_RANDOM]),
        ("sequential", [os.POSIX_FADV_SEQUENTIAL]),
        ("willneed", [os.POSIX_FADV_WILLNEED]),
    ],
)
def test_advice_is_given_once_a_file(
    path: str, monkeypatch: pytest.MonkeyPatch, advise: Any, expected: list[int]
) -> None:
    given: list[int] = []
    monkeypatch.setattr(os, "posix_fadvise", lambda *call: given.append(call[-1]))
    store = PosixStore(advise=advise)
    read(store, path)
    read(store, path)
    store.close()
    assert given == expected


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"num_threads": 0}, "num_threads=0"),
        ({"max_open_files": 0}, "max_open_files=0 must be 1 or more"),
        ({"advise": "often"}, "advise is 'often': give one of none, random"),
    ],
)
def test_illegal_options(options: dict[str, Any], said: str) -> None:
    with pytest.raises(PipelineError, match=said):
        PosixStore(**options)
