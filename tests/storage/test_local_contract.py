"""What the stores of local files promise beyond `Store`: of files that change or are none, of
signals, forks, threads and descriptors.  Asked of each in the same words."""

from __future__ import annotations

import errno
import gc
import os
import pickle
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes.stores import LOCAL

from iopipe.errors import NotFoundError, StorageError
from iopipe.protocols import ReadRequest, Store

CONTENT = np.random.default_rng(3).integers(0, 256, 300_001, dtype=np.uint8).tobytes()


@pytest.fixture(params=LOCAL)
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    store = LOCAL[request.param]()
    yield store
    store.close()


@pytest.fixture
def path(tmp_path: Path) -> str:
    file = tmp_path / "a.bin"
    file.write_bytes(CONTENT)
    return str(file)


def read(store: Store, path: str, offset: int = 0, length: int = len(CONTENT)) -> bytes:
    buffer = bytearray(length)
    return bytes(buffer[: store.read_into(path, offset, memoryview(buffer))])


def submit(store: Store, paths: list[str], length: int = len(CONTENT)) -> list[bytes]:
    buffers = [bytearray(length) for _ in paths]
    requests = [
        ReadRequest(path, 0, memoryview(buffer))
        for path, buffer in zip(paths, buffers, strict=True)
    ]
    counts = store.submit(requests).wait()
    return [bytes(buffer[:count]) for buffer, count in zip(buffers, counts, strict=True)]


def open_files() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


# ---- bytes ---------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_any_offset_length_and_address(store: Store, path: str, seed: int) -> None:
    """Two hundred requests at once, into one poisoned buffer, against slices of the content."""
    draws = random.Random(seed)
    room = np.full(4 << 20, 0xA5, np.uint8)
    requests, places, end = [], [], 0
    for _ in range(200):
        aligned = draws.random() < 0.3
        unit = 4096 if aligned else 1
        offset = draws.randrange(len(CONTENT) + 5000) // unit * unit
        length = draws.choice([0, 1, 511, 4096, 8192, 20_000, draws.randrange(30_000)])
        start = -(-(room.ctypes.data + end) // unit) * unit - room.ctypes.data
        end = start + length + draws.randrange(3)
        places.append((start, offset, length))
        requests.append(ReadRequest(path, offset, room.data[start : start + length]))
    counts = store.submit(requests).wait()
    for (start, offset, length), count in zip(places, counts, strict=True):
        assert room[start : start + count].tobytes() == CONTENT[offset : offset + length]
        behind = room[start + count : start + length]
        if store.describe().startswith(("direct", "uring: io_uring with O_DIRECT")):
            # The rest of the last block, where it was read in place.
            behind[behind == 0] = 0xA5
        assert (behind == 0xA5).all()
        room[start : start + length] = 0xA5
    assert (room == 0xA5).all()


def test_replaced_file_is_read_anew(store: Store, path: str, tmp_path: Path) -> None:
    assert submit(store, [path]) == [CONTENT]
    for content in (b"second", b"the third"):
        (tmp_path / "new").write_bytes(content)
        os.replace(tmp_path / "new", path)
        assert submit(store, [path]) == [content]
        assert read(store, path) == content


def test_file_that_shrinks_while_open(store: Store, path: str) -> None:
    assert read(store, path, 0, 40_000) == CONTENT[:40_000]
    os.truncate(path, 20_001)
    assert read(store, path, 10_000, 20_000) == CONTENT[10_000:20_001]
    assert submit(store, [path]) == [CONTENT[:20_001]]
    assert read(store, path, 30_000, 10) == b""


def test_file_that_shrinks_while_it_is_read(store: Store, path: str) -> None:
    """Every count lies between the sizes that the file had, and what came is its content."""
    sizes = [*range(len(CONTENT), 1000, -7919), 1000]
    begun = threading.Event()

    def shrink() -> None:
        begun.wait()
        for size in sizes:
            os.truncate(path, size)

    thread = threading.Thread(target=shrink)
    thread.start()
    submit(store, [path])
    begun.set()
    while thread.is_alive():
        for data in submit(store, [path] * 5):
            assert 1000 <= len(data) and _agrees(data)
    thread.join()
    assert submit(store, [path]) == [CONTENT[:1000]]


def _agrees(data: bytes) -> bool:
    """The kernel clears the rest of the page that a file is cut in: zeros may come from there."""
    got = np.frombuffer(data, np.uint8)
    differs = got != np.frombuffer(CONTENT[: len(data)], np.uint8)
    return not got[differs].any()


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs interval timers")
def test_signals_interrupt_nothing(store: Store, path: str) -> None:
    seen = []
    before = signal.signal(signal.SIGALRM, lambda *_: seen.append(1))
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    try:
        end = time.monotonic() + 5
        while len(seen) < 50 and time.monotonic() < end:
            assert submit(store, [path] * 4) == [CONTENT] * 4
            assert read(store, path, 5, 9_000) == CONTENT[5:9_005]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert len(seen) >= 50


# ---- what is no readable file ---------------------------------------------------------


@pytest.mark.timeout(20)
def test_fifo_is_refused_at_once(store: Store, tmp_path: Path) -> None:
    fifo = str(tmp_path / "fifo")
    os.mkfifo(fifo)
    before = open_files()
    for call in (read, lambda store, path: submit(store, [path])):
        with pytest.raises(StorageError, match=r"fifo.*a pipe, socket or device.*regular file"):
            call(store, fifo)
    assert open_files() == before


def test_permission_denied(store: Store, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may read all, so the refusal comes from a stand-in for the kernel."""

    def refusing(*_: Any) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", refusing)
    with pytest.raises(StorageError, match=r"open '.*a\.bin': permission denied; give .*read perm"):
        read(store, path)


def test_file_used_as_a_folder(store: Store, path: str) -> None:
    with pytest.raises(NotFoundError, match="not a directory"):
        read(store, path + "/inside")


def test_too_many_open_files(store: Store, path: str) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, limits[1]))
    try:
        with pytest.raises(StorageError, match=rf"raise `ulimit -n` \(now {lowest_free}\)"):
            read(store, path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert read(store, path) == CONTENT


# ---- descriptors, threads, processes ----------------------------------------------------


@pytest.mark.parametrize("name", LOCAL)
def test_a_closed_store_leaves_nothing(name: str, tmp_path: Path) -> None:
    paths = [str(tmp_path / f"{index}") for index in range(30)]
    for path in paths:
        Path(path).write_bytes(CONTENT)
    before, threads = open_files(), set(threading.enumerate())
    for _ in range(3):
        store = LOCAL[name]()
        assert submit(store, paths, 9_000) == [CONTENT[:9_000]] * 30
        if name != "mapped":  # whose limit is another
            assert open_files() <= before + 8 + 1 + 3  # limit, file in use, ring with its maps
        store.close()
        store.close()
    assert open_files() == before and set(threading.enumerate()) <= threads


@pytest.mark.parametrize("name", LOCAL)
def test_a_dropped_store_leaves_nothing(name: str, path: str) -> None:
    before, threads = open_files(), set(threading.enumerate())
    store = LOCAL[name]()
    assert submit(store, [path]) == [CONTENT]
    del store
    gc.collect()
    for thread in set(threading.enumerate()) - threads:
        thread.join(10)
    assert open_files() == before and set(threading.enumerate()) <= threads


@pytest.mark.parametrize("name", LOCAL)
def test_close_ends_reads_that_nobody_waits_for(name: str, path: str) -> None:
    threads = set(threading.enumerate())
    store = LOCAL[name]()
    buffers = [bytearray(200_000) for _ in range(100)]
    forgotten = store.submit([ReadRequest(path, 3, memoryview(b)) for b in buffers])
    del forgotten
    reads = store.submit([ReadRequest(path, 7, memoryview(b)) for b in buffers[:1]])
    reads.wait()
    store.close()
    assert set(threading.enumerate()) <= threads
    for buffer in buffers:  # nothing writes to them any more
        buffer[:] = bytes(len(buffer))
        assert not any(buffer)


def test_a_closed_store_says_so(store: Store, path: str) -> None:
    store.close()
    for call in (read, lambda store, path: submit(store, [path])):
        with pytest.raises(StorageError, match="closed; open a new one"):
            call(store, path)


FORK = """
import os, pickle, sys
from iopipe.errors import StorageError
from iopipe.protocols import ReadRequest
store = pickle.loads(bytes.fromhex(sys.argv[2]))
request = ReadRequest(sys.argv[1], 0, memoryview(bytearray(10)))
store.submit([request]).wait()
child = os.fork()
if child == 0:
    try:
        store.submit([request])
    except StorageError as error:
        store.close()
        os._exit(42 if "fork" in str(error) else 1)
    os._exit(2)
_, status = os.waitpid(child, 0)
print(os.waitstatus_to_exitcode(status), store.submit([request]).wait())
store.close()
"""


def test_forked_child_is_told_to_open_its_own_store(store: Store, path: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORK, path, pickle.dumps(store).hex()],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == "42 [10]\n"
