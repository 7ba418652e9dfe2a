"""Stores that travel, are interrupted and are closed; views that outlive them."""

from __future__ import annotations

import gc
import pickle
import signal
import threading
import time
import weakref

import numpy as np
import pytest
from fakes.places import CONTENT, SIZE, Place, read, submit

from iopipe.errors import NotFoundError, StorageError
from iopipe.protocols import ReadRequest, Store
from iopipe.storage import MappedStore, MemoryStore


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


def test_a_closed_store_says_so(place: Place) -> None:
    path = place.put("a.bin", CONTENT)
    read(place.store, path, 0, 10)
    place.store.close()
    if isinstance(place.store, MemoryStore):  # others may share it
        return
    for call in (
        lambda: read(place.store, path, 0, 10),
        lambda: submit(place.store, [(path, 0, 1)]),
    ):
        with pytest.raises(StorageError, match="closed; open a new one"):
            call()


def test_memory_is_free_as_soon_as_nobody_reads_into_it(place: Place) -> None:
    """Without the cyclic collector, which training loops turn off."""
    path = place.put("a.bin", CONTENT)
    gc.collect()
    gc.disable()
    try:
        room = np.zeros(SIZE, np.uint8)
        freed = weakref.ref(room)
        reads = place.store.submit([ReadRequest(path, at, room.data[at:]) for at in (0, 40_000)])
        assert reads.wait() == [SIZE, SIZE - 40_000]
        del room, reads
        end = time.monotonic() + 10  # a thread may just be leaving it
        while freed() is not None and time.monotonic() < end:
            time.sleep(0.001)
        assert freed() is None
    finally:
        gc.enable()


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
