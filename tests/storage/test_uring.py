"""What only a ring can do: be forbidden, break, fall behind, finish out of order."""

from __future__ import annotations

import ctypes
import errno
import os
import random
import threading
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes.stores import LOCAL

from iopipe.errors import PipelineError, StorageError
from iopipe.protocols import ReadRequest, Store
from iopipe.storage import UringStore, ring
from iopipe.storage.ring import Ring

CONTENT = random.Random(1).randbytes(100_001)


@pytest.fixture(params=["uring", "uring-buffered"])
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    store = LOCAL[request.param]()
    yield store
    store.close()


@pytest.fixture
def path(tmp_path: Path) -> str:
    file = tmp_path / "a.bin"
    file.write_bytes(CONTENT)
    return str(file)


def read(store: Store, path: str, *, num_requests: int = 1) -> None:
    buffers = [bytearray(5000) for _ in range(num_requests)]
    requests = [ReadRequest(path, 7 * n, memoryview(b)) for n, b in enumerate(buffers)]
    assert store.submit(requests).wait() == [5000] * num_requests
    assert all(buffer == CONTENT[7 * n : 7 * n + 5000] for n, buffer in enumerate(buffers))


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (errno.ENOSYS, "this kernel has none, or a seccomp profile hides it"),
        (errno.EPERM, "kernel.io_uring_disabled or a seccomp profile"),
        (errno.EINVAL, r"Linux 6\.1 or newer is needed"),
        (errno.EMFILE, "use prefer='direct' instead"),
    ],
)
def test_what_forbids_it_is_named(code: int, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ring, "_syscall", lambda: refusing(code))
    with pytest.raises(StorageError, match=rf"cannot set up an io_uring: .*{said}"):
        UringStore()


def refusing(code: int) -> Callable[..., int]:
    def call(*_: Any) -> int:
        ctypes.set_errno(code)
        return -1

    return call


def test_too_little_lockable_memory_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    syscall = ring._syscall()

    def scarce(number: int, *rest: Any) -> int:
        if number == 427:
            return refusing(errno.ENOMEM)()
        return int(syscall(number, *rest))

    LOCAL["uring"]().close()
    before = os.listdir("/proc/self/fd")
    monkeypatch.setattr(ring, "_syscall", lambda: scarce)
    with pytest.raises(StorageError, match=r"register buffers .*raise `ulimit -l` or lower"):
        UringStore(queue_depth=8)
    assert os.listdir("/proc/self/fd") == before


def test_many_more_requests_than_places(store: Store, path: str) -> None:
    read(store, path, num_requests=3000)


def test_interrupted_call_is_made_again(
    store: Store, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    syscall, draws = ring._syscall(), random.Random(2)

    def interrupted(*rest: Any) -> int:
        return refusing(errno.EINTR)() if draws.random() < 0.5 else int(syscall(*rest))

    monkeypatch.setattr(ring, "_syscall", lambda: interrupted)
    read(store, path, num_requests=100)


def test_requests_that_the_kernel_puts_off_are_made_again(
    store: Store, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of all reads come back with EAGAIN or short, those that came in another order."""
    enter, draws = Ring.enter, random.Random(3)

    def meagre(self: Ring, *, num_wanted: int) -> list[tuple[int, int]]:
        found = enter(self, num_wanted=num_wanted)
        draws.shuffle(found)
        return [(tag, -errno.EAGAIN if draws.random() < 0.5 else n) for tag, n in found]

    monkeypatch.setattr(Ring, "enter", meagre)
    read(store, path, num_requests=200)


def test_read_error_names_path_offset_and_remedy(
    store: Store, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    enter = Ring.enter

    def failing(self: Ring, *, num_wanted: int) -> list[tuple[int, int]]:
        return [(tag, -errno.EIO) for tag, _ in enter(self, num_wanted=num_wanted)]

    monkeypatch.setattr(Ring, "enter", failing)
    said = r"cannot read 9 bytes at offset 5 of '.*a\.bin': input/output error; .*kernel log"
    with pytest.raises(StorageError, match=said):
        store.read_into(path, 5, memoryview(bytearray(9)))


@pytest.mark.timeout(60)
@pytest.mark.parametrize("error", [StorageError("broken"), ZeroDivisionError("broken")])
def test_a_broken_ring_fails_all_that_is_and_will_be_asked(
    store: Store, path: str, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def broken(self: Ring, *, num_wanted: int) -> list[tuple[int, int]]:
        raise error

    monkeypatch.setattr(Ring, "enter", broken)
    for _ in range(3):
        with pytest.raises(type(error), match="broken"):
            store.read_into(path, 5, memoryview(bytearray(9)))


@pytest.mark.timeout(60)
def test_a_ring_that_breaks_while_it_is_closed(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LOCAL["uring"]()
    assert isinstance(store, UringStore)
    inside, go_on = threading.Event(), threading.Event()

    def breaking(self: Ring, *, num_wanted: int) -> list[tuple[int, int]]:
        if go_on.is_set():
            raise StorageError("broken")
        inside.set()
        go_on.wait()
        return []

    monkeypatch.setattr(Ring, "enter", breaking)
    reads = store.submit([ReadRequest(path, 5, memoryview(bytearray(9)))])
    inside.wait()
    store._end()  # as `close` begins; the thread sees it before its ring breaks
    go_on.set()
    store.close()
    with pytest.raises(StorageError, match="broken"):
        reads.wait()


@pytest.mark.timeout(60)
def test_memory_that_cannot_be_written_to_is_the_error_of_its_request(
    store: Store, path: str
) -> None:
    good = bytearray(9)
    reads = store.submit([ReadRequest(path, 5, memoryview(one)) for one in (good, bytes(9))])
    with pytest.raises(TypeError):
        reads.wait()
    assert good == CONTENT[5:14]
    read(store, path)


@pytest.mark.timeout(60)
def test_memory_of_other_items_than_bytes_leaves_nobody_waiting(path: str) -> None:
    store = LOCAL["uring"]()
    with pytest.raises(ValueError, match="memoryview assignment"):
        store.read_into(path, 1, memoryview(array("f", [0.0] * 9)))
    store.close()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"queue_depth": 0}, "queue_depth=0: give a power of two"),
        ({"queue_depth": 12}, "queue_depth=12"),
        ({"queue_depth": 8192}, "queue_depth=8192"),
        ({"bounce_bytes": 5000}, "bounce_bytes=5000"),
        ({"max_open_files": 0}, "max_open_files=0"),
    ],
)
def test_illegal_options(options: dict[str, Any], said: str) -> None:
    with pytest.raises(PipelineError, match=said):
        UringStore(**options)
