"""What every `Store` promises, asked of each backend in the same words."""

from __future__ import annotations

import gc
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from fakes.object_server import ObjectServer
from fakes.stores import LOCAL
from hypothesis import given
from hypothesis import strategies as st

from iopipe.errors import NotFoundError, StorageError
from iopipe.protocols import ReadRequest, Store
from iopipe.storage import MappedStore, MemoryStore, PosixStore
from iopipe.storage.cache import CachedStore
from iopipe.storage.objects import ObjectStore
from iopipe.storage.remote import RemoteStore

CONTENT = np.random.default_rng(7).integers(0, 256, 70_001, dtype=np.uint8).tobytes()
SIZE = len(CONTENT)


@dataclass(frozen=True)
class Place:
    """A store, and how to put objects into what it reads."""

    store: Store
    root: str
    put: Callable[[str, bytes], str]
    remove: Callable[[str], None]
    again: Callable[[], Store] | None = None
    """A new store of the same place, where a store keeps to the version that it saw first."""
    is_cache: bool = False
    num_requests: int = 1000
    """Of each of eight threads."""


def posix_place(folder: Path, store: Store) -> Place:
    def put(name: str, data: bytes) -> str:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return str(path)

    return Place(store, f"{folder}/", put, os.unlink)


def remote_place(folder: Path) -> Place:
    """fsspec's own file system of local files stands for any other of it."""

    def put(name: str, data: bytes) -> str:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return f"file://{path}"

    store = RemoteStore(f"local://{folder}")
    return Place(store, f"file://{folder}/", put, lambda path: os.unlink(path[7:]))


def memory_place() -> Place:
    store = MemoryStore()

    def put(name: str, data: bytes) -> str:
        store.write("memory://set/" + name, data)
        return "memory://set/" + name

    return Place(store, "memory://set/", put, store.delete)


def objects_place(server: ObjectServer) -> Place:
    def put(name: str, data: bytes) -> str:
        server.objects[f"b/{name}"] = data
        return f"s3://b/{name}"

    def remove(path: str) -> None:
        del server.objects[path.removeprefix("s3://")]

    def again() -> Store:
        keys = {"access_key_id": "a", "secret_access_key": "b", "region": "us-east-1"}
        options = {**keys, "endpoint": server.endpoint, "virtual_hosted_style_request": False}
        return ObjectStore("s3://b", options=options, part_bytes=1 << 15, concurrency=8)

    return Place(again(), "s3://b/", put, remove, again=again, num_requests=125)


def cache_place(server: ObjectServer, folder: Path) -> Place:
    below = objects_place(server)
    below.store.close()

    def again() -> Store:
        assert below.again is not None
        return CachedStore(below.again(), folder / "c", max_bytes=1 << 20, block_bytes=8192)

    return replace(below, store=again(), again=again, is_cache=True)


@pytest.fixture(params=[*LOCAL, "memory", "remote", "objects", "cache"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    if request.param == "memory":
        place = memory_place()
    elif request.param == "remote":
        place = remote_place(tmp_path)
    elif request.param == "objects":
        place = objects_place(request.getfixturevalue("server"))
    elif request.param == "cache":
        place = cache_place(request.getfixturevalue("server"), tmp_path)
    else:
        place = posix_place(tmp_path, LOCAL[request.param]())
    yield place
    place.store.close()


def read(store: Store, path: str, offset: int, length: int) -> bytes:
    """`length` bytes asked for in a poisoned buffer; what came, the rest proven untouched."""
    buffer = bytearray(b"\xa5" * (length + 2))
    num_bytes = store.read_into(path, offset, memoryview(buffer)[1 : 1 + length])
    assert buffer[0] == 0xA5 and set(buffer[1 + num_bytes :]) <= {0xA5}
    return bytes(buffer[1 : 1 + num_bytes])


def submit(store: Store, ranges: list[tuple[str, int, int]]) -> list[bytes]:
    buffers = [bytearray(b"\xa5" * length) for _, _, length in ranges]
    requests = [
        ReadRequest(path, offset, memoryview(buffer))
        for (path, offset, _), buffer in zip(ranges, buffers, strict=True)
    ]
    counts = store.submit(requests).wait()
    assert all(set(buffer[count:]) <= {0xA5} for buffer, count in zip(buffers, counts, strict=True))
    return [bytes(buffer[:count]) for buffer, count in zip(buffers, counts, strict=True)]


RANGES = [
    (0, 0),
    (0, 1),
    (SIZE, 0),
    (SIZE - 1, 1),
    (4095, 2),
    (4097, 8191),
    (SIZE - 3, 3),
    (0, SIZE),
    (SIZE - 3, 10),
    (SIZE, 5),
    (SIZE + 4096, 5),
    (0, SIZE + 1),
]


@pytest.mark.parametrize(("offset", "length"), RANGES)
def test_read_into_fills_up_to_the_end(place: Place, offset: int, length: int) -> None:
    path = place.put("a.bin", CONTENT)
    assert read(place.store, path, offset, length) == CONTENT[offset : offset + length]


def test_submit_serves_the_same_ranges_cold_and_warm(place: Place) -> None:
    path = place.put("a.bin", CONTENT)
    ranges = [(path, offset, length) for offset, length in RANGES]
    expected = [CONTENT[offset : offset + length] for offset, length in RANGES]
    assert submit(place.store, ranges) == expected
    assert submit(place.store, ranges) == expected


def test_submit_of_nothing(place: Place) -> None:
    assert place.store.submit([]).wait() == []


def test_empty_object(place: Place) -> None:
    path = place.put("empty", b"")
    assert place.store.size(path) == 0
    assert read(place.store, path, 0, 4) == b""


def test_size_and_version_follow_the_content(place: Place) -> None:
    path = place.put("a.bin", b"one")
    before = place.store.version(path)
    assert place.store.version(path) == before
    place.put("a.bin", b"three")
    store = place.again() if place.again else place.store
    assert store.size(path) == 5
    assert store.version(path) != before
    if place.again:
        assert (place.store.size(path), place.store.version(path)) == (3, before)
        store.close()


def test_rewritten_object_is_read_anew(place: Place) -> None:
    path = place.put("a.bin", b"old content")
    assert submit(place.store, [(path, 0, 20)]) == [b"old content"]
    place.put("a.bin", b"new")
    if place.is_cache:
        assert submit(place.store, [(path, 0, 20)]) == [b"old content"]
    elif place.again:
        with pytest.raises(StorageError, match="changed since it was opened"):
            submit(place.store, [(path, 0, 20)])
    if place.again:
        with closing(place.again()) as store:
            assert submit(store, [(path, 0, 20)]) == [b"new"]
        return
    assert read(place.store, path, 0, 20) == b"new"
    assert submit(place.store, [(path, 0, 20)]) == [b"new"]


def test_missing_object(place: Place) -> None:
    missing = place.root + "none.bin"
    calls: list[Callable[[], object]] = [
        lambda: place.store.size(missing),
        lambda: place.store.version(missing),
        lambda: read(place.store, missing, 0, 1),
        lambda: read(place.store, missing, 0, 0),
        lambda: submit(place.store, [(missing, 0, 1)]),
        lambda: submit(place.store, [(missing, 0, 0)]),
    ]
    for call in calls:
        with pytest.raises(NotFoundError, match=r"none\.bin"):
            call()


def test_removed_object_is_missing_even_if_it_was_read(place: Place) -> None:
    path = place.put("a.bin", CONTENT)
    read(place.store, path, 0, 10)
    place.remove(path)
    if place.is_cache:  # what it keeps is of the version that it saw
        assert read(place.store, path, 0, 10) == CONTENT[:10]
        return
    with pytest.raises(NotFoundError, match=r"a\.bin"):
        read(place.store, path, 0, 10)
    with pytest.raises(NotFoundError, match=r"a\.bin"):
        submit(place.store, [(path, 0, 10)])


def test_folder_is_no_object(place: Place) -> None:
    place.put("folder/a.bin", CONTENT)
    for call in (place.store.size, place.store.version):
        with pytest.raises(StorageError, match=r"folder.*(a directory|a folder|no such object)"):
            call(place.root + "folder")
    with pytest.raises(StorageError, match=r"folder.*(a directory|a folder|no such object)"):
        read(place.store, place.root + "folder", 0, 1)


def test_negative_offset(place: Place) -> None:
    path = place.put("a.bin", CONTENT)
    for _ in range(2):
        with pytest.raises(StorageError, match=r"offset -1.*give .*0 or more"):
            submit(place.store, [(path, -1, 5)])
    with pytest.raises(StorageError, match=r"offset -1.*give .*0 or more"):
        read(place.store, path, -1, 5)


def test_first_error_is_raised_after_the_others_are_served(place: Place) -> None:
    path = place.put("a.bin", CONTENT)
    buffers = [bytearray(1000) for _ in range(40)]
    names = [path] * 40
    names[11], names[30] = place.root + "first", place.root + "second"
    requests = [
        ReadRequest(name, 7, memoryview(buffer))
        for name, buffer in zip(names, buffers, strict=True)
    ]
    reads = place.store.submit(requests)
    with pytest.raises(NotFoundError, match="first"):
        reads.wait()
    good = [buffer for name, buffer in zip(names, buffers, strict=True) if name == path]
    assert all(buffer == CONTENT[7:1007] for buffer in good) and len(good) == 38


def test_a_thousand_requests_from_eight_threads(place: Place) -> None:
    paths = [place.put(f"{index}.bin", CONTENT[index:]) for index in range(20)]
    starts = np.random.default_rng(1).integers(0, SIZE, (8, place.num_requests))
    ranges = [
        [(paths[int(start) % 20], int(start), 100 + int(start) % 900) for start in row]
        for row in starts
    ]
    results: list[list[bytes]] = [[]] * 8
    gate = threading.Barrier(8)

    def work(index: int) -> None:
        gate.wait()
        results[index] = submit(place.store, ranges[index])

    threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for asked, got in zip(ranges, results, strict=True):
        assert got == [CONTENT[start % 20 :][start : start + length] for _, start, length in asked]


def test_glob_finds_objects_in_order(place: Place) -> None:
    for name in ("b-2.tar", "b-1.tar", "sub/b-3.tar", "b-1.idx", ".b-0.tar"):
        place.put(name, b"")
    names = [path.removeprefix(place.root) for path in place.store.glob(place.root + "b-?.tar")]
    assert names == ["b-1.tar", "b-2.tar"]
    assert place.store.glob(place.root + "c*") == []
    assert place.store.glob(place.root + "sub") == []


FOLDERS = st.lists(st.sampled_from(["d", "e", ".h"]), max_size=3)
NAMES = st.builds(
    lambda folders, file: "/".join([*folders, file]),
    FOLDERS,
    st.sampled_from(["x.tar", "y", ".z", "[q]"]),
)
PATTERNS = st.lists(
    st.sampled_from(["*", "**", "d", "?", "*.tar", "[dx]*", ".*", "y", "[!d]*", ".z", "[[]q]"]),
    min_size=1,
    max_size=4,
).map("/".join)


@given(names=st.lists(NAMES, max_size=8), patterns=st.lists(PATTERNS, min_size=1, max_size=8))
def test_glob_of_both_stores_agrees(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], patterns: list[str]
) -> None:
    places = posix_place(tmp_path_factory.mktemp("glob"), PosixStore()), memory_place()
    for place in places:
        for name in names:
            place.put(name, b"")
    for pattern in patterns:
        found = [
            [path.removeprefix(place.root) for path in place.store.glob(place.root + pattern)]
            for place in places
        ]
        assert found[0] == found[1]


def test_store_travels_to_another_process_as_bytes(place: Place) -> None:
    path = place.put("a.bin", CONTENT)
    read(place.store, path, 0, 10)
    twin: Store = pickle.loads(pickle.dumps(place.store))
    assert read(twin, path, 5, 100) == CONTENT[5:105]
    assert twin.describe() == place.store.describe()
    twin.close()


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs interval timers")
def test_signals_interrupt_no_read(place: Place) -> None:
    path, seen = place.put("a.bin", CONTENT), []
    before = signal.signal(signal.SIGALRM, lambda *_: seen.append(1))
    signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
    try:
        end = time.monotonic() + 10
        while len(seen) < 20 and time.monotonic() < end:
            assert submit(place.store, [(path, 5, 30_000)] * 2) == [CONTENT[5:30_005]] * 2
            assert read(place.store, path, SIZE - 9, 99) == CONTENT[-9:]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert len(seen) >= 20


def test_close_ends_what_nobody_waits_for(place: Place) -> None:
    """Cancelled: nobody waits, the store is closed, and no buffer is written to any more."""
    path, threads = place.put("a.bin", CONTENT), set(threading.enumerate())
    buffers = [bytearray(50_000) for _ in range(30)]
    reads = place.store.submit([ReadRequest(path, 3, memoryview(one)) for one in buffers])
    del reads
    place.store.close()
    gc.collect()
    left = set(threading.enumerate()) - threads
    assert not [thread for thread in left if thread.name.startswith("iopipe")]
    for buffer in buffers:
        buffer[:] = bytes(len(buffer))
    assert not any(map(any, buffers))


def test_close_twice(place: Place) -> None:
    place.store.close()
    place.store.close()


# ---- views ---------------------------------------------------------------------------


def test_a_view_shows_what_a_read_gives_or_there_is_none(place: Place) -> None:
    path, empty = place.put("v", CONTENT), place.put("e", b"")
    view = place.store.view(path)
    if view is None:
        assert not isinstance(place.store, MappedStore | MemoryStore)
        return
    assert bytes(view) == CONTENT and view.readonly
    assert bytes(place.store.view(empty) or b"") == b""
    with pytest.raises(NotFoundError):
        place.store.view(path + "-missing")


def test_a_view_outlives_the_store_and_the_next_one_shows_the_new_file(place: Place) -> None:
    path = place.put("v", CONTENT)
    view = place.store.view(path)
    if view is None:
        return
    place.remove(path)
    assert place.store.view(place.put("v", b"new")) == b"new"
    for number in range(5):
        assert place.store.view(place.put(f"v{number}", b"%d" % number)) == b"%d" % number
    place.store.close()
    assert bytes(view) == CONTENT
