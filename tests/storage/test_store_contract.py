"""What every `Store` promises of bytes and of what is missing, asked of each in the same words."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing

import numpy as np
import pytest
from fakes.places import CONTENT, SIZE, Place, read, submit

from iopipe.errors import NotFoundError, StorageError
from iopipe.protocols import ReadRequest

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


def test_overlapping_requests_into_one_memory(place: Place) -> None:
    """A chunk's requests are slices of one buffer; samples may come twice in it."""
    path = place.put("a.bin", CONTENT)
    ranges = [(0, 8192), (100, 50), (0, SIZE), (8192, 8192), (SIZE - 7, 7), (0, 8192)]
    room, end, requests = memoryview(bytearray(4 * SIZE)), 0, []
    for offset, length in ranges:
        requests.append(ReadRequest(path, offset, room[end : end + length]))
        end += length
    assert place.store.submit(requests).wait() == [length for _, length in ranges]
    for (offset, length), request in zip(ranges, requests, strict=True):
        assert request.buffer == CONTENT[offset : offset + length]


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
