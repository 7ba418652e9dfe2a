"""Joining and splitting of ranges, against a naive twin and against the bytes themselves."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iopipe.errors import NotFoundError, PipelineError
from iopipe.protocols import ReadRequest
from iopipe.storage import DirectStore, PosixStore
from iopipe.storage.coalesce import join_ranges, split_requests

RANGE = st.tuples(st.integers(0, 2), st.integers(0, 300), st.integers(0, 60))


def naive(
    ranges: list[tuple[int, int, int]], gap: int, most: int
) -> list[tuple[int, int, list[int]]]:
    """(file, start, indices) of each read, one range after the other."""
    reads: list[tuple[int, int, list[int]]] = []
    run_start = last_end = piece = 0
    for index in sorted(range(len(ranges)), key=lambda i: (ranges[i][0], ranges[i][1])):
        file, start, length = ranges[index]
        if not reads or file != reads[-1][0] or start - last_end > gap:
            run_start, piece = start, 0
            reads.append((file, start, [index]))
        elif (start - run_start) // most != piece:
            piece = (start - run_start) // most
            reads.append((file, start, [index]))
        else:
            reads[-1][2].append(index)
        last_end = start + length
    return reads


@given(ranges=st.lists(RANGE, max_size=30), gap=st.integers(0, 20), most=st.integers(1, 200))
def test_join_agrees_with_the_naive_twin(
    ranges: list[tuple[int, int, int]], gap: int, most: int
) -> None:
    table = np.array(ranges, np.int64).reshape(-1, 3)
    found = join_ranges(
        table[:, 0],
        table[:, 1],
        table[:, 1] + table[:, 2],
        max_gap_bytes=gap,
        max_joined_bytes=most,
    )
    expected = naive(ranges, gap, most)
    assert found.files.tolist() == [file for file, _, _ in expected]
    assert found.starts.tolist() == [start for _, start, _ in expected]
    for read, (_, start, indices) in enumerate(expected):
        assert {int(found.which[index]) for index in indices} == {read}
        end = max(ranges[index][1] + ranges[index][2] for index in indices)
        assert found.lengths[read] == end - start


def test_short_requests_are_not_split() -> None:
    buffer = memoryview(bytearray(4096))
    assert split_requests([ReadRequest("a", 0, buffer)], task_bytes=4096) is None
    assert split_requests([], task_bytes=4096) is None


def test_what_tasks_bring_counts_up_to_the_first_short_one() -> None:
    buffers = [memoryview(bytearray(n)) for n in (10_000, 0, 4096, 8192)]
    split = split_requests([ReadRequest("a", 3, b) for b in buffers], task_bytes=4096)
    assert split is not None
    assert [(r.offset, len(r.buffer)) for r in split.requests] == [
        (3, 4096), (4099, 4096), (8195, 1808), (3, 0), (3, 4096), (3, 4096), (4099, 4096),
    ]  # fmt: skip
    assert split.added_up([4096, 4096, 1808, 0, 5, 4096, 0]) == [10_000, 0, 5, 4096]
    assert split.added_up([7, 4096, 1808, 0, 0, 0, 4096]) == [7, 0, 0, 0]


@pytest.mark.parametrize("kind", [PosixStore, DirectStore])
def test_split_reads_bring_the_same(
    kind: type[PosixStore] | type[DirectStore], tmp_path: Path
) -> None:
    content = random.Random(1).randbytes(100_001)
    path = tmp_path / "a"
    path.write_bytes(content)
    store = kind(task_bytes=8192, num_threads=3)
    ranges = [(0, 100_001), (5, 50_000), (90_000, 50_000), (70_000, 8192), (100_001, 9000), (1, 0)]
    buffers = [bytearray(length) for _, length in ranges]
    requests = [
        ReadRequest(str(path), offset, memoryview(buffer))
        for (offset, _), buffer in zip(ranges, buffers, strict=True)
    ]
    counts = store.submit(requests).wait()
    for (offset, length), buffer, count in zip(ranges, buffers, counts, strict=True):
        assert bytes(buffer[:count]) == content[offset : offset + length]
    requests[2:2] = [ReadRequest(str(path) + "-none", 0, memoryview(bytearray(20_000)))]
    with pytest.raises(NotFoundError, match="a-none"):
        store.submit(requests).wait()
    store.close()


@pytest.mark.parametrize("kind", [PosixStore, DirectStore])
def test_odd_tasks_are_refused(kind: type[PosixStore] | type[DirectStore]) -> None:
    for task_bytes in (0, 5000, -4096):
        with pytest.raises(
            PipelineError, match=f"task_bytes={task_bytes}: give a multiple of 4096"
        ):
            kind(task_bytes=task_bytes)
