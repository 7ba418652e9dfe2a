"""Read-ahead: the same bytes, read once, in fewer reads, within its bounds."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iopipe.errors import PipelineError, StorageError
from iopipe.protocols import ByteRange, ReadRequest, Reads
from iopipe.storage import MemoryStore
from iopipe.storage.ahead import ReadAheadStore

CONTENT = np.random.default_rng(5).integers(0, 256, 300_000, dtype=np.uint8).tobytes()
PATHS = ["memory://set/a", "memory://set/b"]


class Watched(MemoryStore):
    """Remembers what it was asked for; `broken` bytes cannot be read the first times."""

    def __init__(self, *, broken: int | None = None, num_failures: int = 1 << 30) -> None:
        super().__init__()
        self.asked: list[tuple[str, int, int]] = []
        self.broken = broken
        self.num_failures = num_failures
        self.is_closed = False
        for path in PATHS:
            self.write(path, CONTENT)

    def view(self, path: str) -> Any:
        return None

    def submit(self, requests: Sequence[ReadRequest]) -> Reads:
        self.asked += [(one.path, one.offset, len(one.buffer)) for one in requests]
        for one in requests:
            holds = self.broken is not None and one.offset <= self.broken
            if holds and self.broken < one.offset + len(one.buffer) and self.num_failures:  # type: ignore[operator]
                self.num_failures -= 1
                return Broken()
        return super().submit(requests)

    def close(self) -> None:
        self.is_closed = True


class Broken:
    def wait(self) -> list[int]:
        raise StorageError("this byte cannot be read")


def fetched(store: ReadAheadStore, ranges: Sequence[ByteRange]) -> list[bytes]:
    buffers = [bytearray(part.length) for part in ranges]
    requests = [
        ReadRequest(part.path, part.offset, memoryview(buffer))
        for part, buffer in zip(ranges, buffers, strict=True)
    ]
    counts = store.submit(requests).wait()
    return [bytes(buffer[:count]) for buffer, count in zip(buffers, counts, strict=True)]


def expected(ranges: Sequence[ByteRange]) -> list[bytes]:
    return [CONTENT[part.offset : part.offset + part.length] for part in ranges]


def mixed_blocks(num_blocks: int, block: int, seed: int = 1) -> list[list[ByteRange]]:
    """Samples of 1000 bytes: pairs of blocks in a random order, mixed, four a task."""
    generator = np.random.default_rng(seed)
    blocks = generator.permutation(num_blocks).reshape(-1, 2)
    tasks = []
    for pair in blocks:
        samples = np.concatenate([np.arange(block) + start * block for start in pair])
        for four in generator.permutation(samples).reshape(-1, 4).tolist():
            tasks.append([ByteRange(PATHS[0], sample * 1000, 1000) for sample in four])
    return tasks


RANGES = st.builds(
    ByteRange,
    st.sampled_from(PATHS),
    st.integers(0, len(CONTENT) + 50),
    st.one_of(st.integers(0, 50), st.integers(0, 100_000)),
)


@given(
    st.lists(st.lists(RANGES, max_size=4), max_size=12),
    st.integers(3, 400_000),
    st.lists(RANGES, max_size=3),
)
def test_bytes_are_those_of_the_store(
    tasks: list[list[ByteRange]], num_bytes: int, others: list[ByteRange]
) -> None:
    """Whatever is to come, and whatever is asked for besides."""
    store = ReadAheadStore(Watched(), iter(tasks), num_bytes=num_bytes)
    for task in tasks:
        assert fetched(store, task) == expected(task)
    assert fetched(store, others) == expected(others)
    if tasks:
        assert fetched(store, tasks[-1]) == expected(tasks[-1])
    store.close()


def test_mixed_blocks_are_read_whole_and_once() -> None:
    inner, tasks = Watched(), mixed_blocks(num_blocks=12, block=20)
    store = ReadAheadStore(inner, iter(tasks), num_bytes=3 * 40_000, max_gap_bytes=0)
    for task in tasks:
        assert fetched(store, task) == expected(task)
    assert sum(length for _, _, length in inner.asked) == 240_000
    assert len(inner.asked) <= 12 and store.num_missed == 0
    store.close()


def test_memory_is_bounded_by_the_windows() -> None:
    """Not more than the window in use and the next one are read before they are asked for."""
    inner, tasks = Watched(), mixed_blocks(num_blocks=12, block=20)
    store = ReadAheadStore(inner, iter(tasks), num_bytes=3 * 40_000, max_gap_bytes=0)
    num_used = 0
    for task in tasks:
        fetched(store, task)
        num_used += 4000
        begun = -(-num_used // 40_000) * 40_000
        with store._changed:
            assert sum(length for _, _, length in inner.asked) <= begun + 40_000
            held = {window.number for window in store._windows}
        assert len(held) <= 3
    store.close()


def test_requests_that_nobody_announced_are_passed_on() -> None:
    inner = Watched()
    store = ReadAheadStore(inner, iter([[ByteRange(PATHS[0], 0, 100)]]), num_bytes=3000)
    other = [ByteRange(PATHS[1], 5, 10), ByteRange(PATHS[0], 50, 100)]
    assert fetched(store, other) == expected(other)
    assert (store.num_served, store.num_missed) == (0, 2)
    assert (PATHS[0], 50, 100) in inner.asked
    store.close()
    assert not inner.is_closed and inner.size(PATHS[0]) == len(CONTENT)


@pytest.mark.parametrize("num_failures", [1, 1 << 30])
def test_a_failed_read_is_the_error_of_those_who_need_it(num_failures: int) -> None:
    """The big read over both fails; each of them is then read for itself."""
    good, bad = ByteRange(PATHS[0], 0, 100), ByteRange(PATHS[0], 200, 100)
    inner = Watched(broken=250, num_failures=num_failures)
    store = ReadAheadStore(inner, iter([[good, bad]]), num_bytes=30_000)
    assert fetched(store, [good]) == expected([good])
    if num_failures == 1:
        assert fetched(store, [bad]) == expected([bad])
    else:
        with pytest.raises(StorageError, match="cannot be read"):
            fetched(store, [bad])
    store.close()


def test_an_error_of_those_who_announce_is_raised() -> None:
    def coming() -> Iterator[list[ByteRange]]:
        raise StorageError("the index is gone")
        yield []

    store = ReadAheadStore(Watched(), coming(), num_bytes=3000)
    with pytest.raises(StorageError, match="the index is gone"):
        fetched(store, [ByteRange(PATHS[0], 0, 1)])
    store.close()


def test_several_threads_share_what_was_read() -> None:
    inner, tasks = Watched(), mixed_blocks(num_blocks=12, block=20)
    store = ReadAheadStore(inner, iter(tasks), num_bytes=3 * 40_000, max_gap_bytes=0)
    left, found, lock = list(enumerate(tasks)), {}, threading.Lock()

    def work() -> None:
        while True:
            with lock:
                if not left:
                    return
                number, task = left.pop(0)
            found[number] = fetched(store, task)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[number] for number in range(len(tasks))] == [expected(task) for task in tasks]
    # A thread that lies two windows behind the other one reads for itself.
    read_again = 1000 * store.num_missed
    assert sum(length for _, _, length in inner.asked) == 240_000 + read_again
    store.close()


def test_it_can_be_closed_at_any_time() -> None:
    for num_asked in range(4):
        store = ReadAheadStore(
            Watched(), iter(mixed_blocks(12, 20)), num_bytes=3 * 40_000, max_gap_bytes=0
        )
        for task in mixed_blocks(12, 20)[:num_asked]:
            fetched(store, task)
        store.close()
        store.close()
        assert not [one for one in threading.enumerate() if one.name == "iopipe-read-ahead"]
        with pytest.raises(StorageError, match="closed"):
            fetched(store, [ByteRange(PATHS[0], 0, 1)])


def test_close_waits_for_a_window_that_is_just_being_added() -> None:
    inside, go_on, waited = threading.Event(), threading.Event(), []

    class Slow(Watched):
        def submit(self, requests: Sequence[ReadRequest]) -> Reads:
            reads = super().submit(requests)
            if requests and requests[0].path == PATHS[1]:
                inside.set()
                go_on.wait()
                return Noting(reads)
            return reads

    class Noting:
        def __init__(self, reads: Reads) -> None:
            self.reads = reads

        def wait(self) -> list[int]:
            waited.append(1)
            return self.reads.wait()

    tasks = [[ByteRange(path, 0, 1000)] for path in PATHS]
    store = ReadAheadStore(Slow(), iter(tasks), num_bytes=3000)
    fetched(store, tasks[0])
    inside.wait()
    closer = threading.Thread(target=store.close)
    closer.start()
    while not store._is_closed:
        time.sleep(0.001)
    go_on.set()
    closer.join()
    assert waited == [1]


def test_it_says_what_it_does() -> None:
    store = ReadAheadStore(Watched(), iter([]), num_bytes=48 << 20)
    assert store.describe().endswith("48 MiB read ahead")
    with pytest.raises(PipelineError, match="give at least 3"):
        ReadAheadStore(Watched(), iter([]), num_bytes=2)
