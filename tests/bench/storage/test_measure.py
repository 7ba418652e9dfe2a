"""Runs of jobs against real stores and false ones: counts, verification, errors, skipping."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import kvikio as fake_kvikio

from iopipe.bench.storage import lanes, page_cache
from iopipe.bench.storage.backends import open_for
from iopipe.bench.storage.check import verifier_for
from iopipe.bench.storage.gpu_lanes import CopyLane, GdsLane
from iopipe.bench.storage.jobs import Grid, Job, Skipped
from iopipe.bench.storage.measure import measure
from iopipe.bench.storage.rows import Row
from iopipe.bench.storage.sweep import Effort, Findings, sweep
from iopipe.bench.storage.targets import Target, target_of
from iopipe.errors import DataError, StorageError
from iopipe.protocols import ReadRequest, Reads, Store
from iopipe.storage import MemoryStore, PosixStore
from iopipe.storage.gds import GdsStore
from iopipe.storage.gds_probe import GdsPath

SIZE = 1 << 20


@pytest.fixture
def target(tmp_path: Path) -> Any:
    with target_of(str(tmp_path), size_bytes=SIZE) as made:
        yield made


def _job(**changes: Any) -> Job:
    values: dict[str, Any] = {
        "backend": "posix", "access": "random", "block_bytes": 4096, "queue_depth": 2,
        "direct": False, "destination": "host", "cache": "warm",
    }  # fmt: skip
    return Job(**{**values, **changes})


def _measured(job: Job, target: Target, store: Any = None, *, verifies: bool = False) -> Row:
    opened = store or open_for(job, target)
    try:
        return measure(
            opened, job, target, seconds=0.02, repeat=0,
            verifier=verifier_for(target) if verifies else None,
        )  # fmt: skip
    finally:
        opened.close()


@pytest.mark.parametrize("access", ["sequential", "random", "shards"])
@pytest.mark.parametrize(("backend", "batch"), [("posix", 1), ("posix", 4), ("mapped", 1)])
def test_a_run_reads_and_counts(target: Target, backend: str, access: str, batch: int) -> None:
    row = _measured(_job(backend=backend, access=access, batch=batch), target)
    assert row.num_bytes > 0 and row.num_bytes % (4096 * batch) == 0
    assert row.iops * row.seconds * 4096 == pytest.approx(row.num_bytes)
    assert 0 < row.latency_us["p50_us"] <= row.latency_us["max_us"]
    assert row.resident_after == 1
    assert backend in row.active_path


class _Counting(PosixStore):
    """Notes how many reads are under way at a time, and which there were."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()
        self.under_way = self.most = 0
        self.places: list[tuple[int, int]] = []

    def read_into(self, path: str, offset: int, buffer: memoryview) -> int:
        with self.lock:
            self.under_way += 1
            self.most = max(self.most, self.under_way)
            self.places.append((offset, len(buffer)))
        try:
            return super().read_into(path, offset, buffer)
        finally:
            with self.lock:
                self.under_way -= 1


def test_a_cold_run_reads_each_block_once(target: Target) -> None:
    store = _Counting()
    row = measure(
        store, _job(cache="cold", queue_depth=3), target, seconds=60, repeat=0, verifier=None
    )
    assert sorted(store.places) == [(start, 4096) for start in range(0, SIZE, 4096)]
    assert row.num_bytes == SIZE
    assert store.most <= 3


@pytest.mark.parametrize(
    ("backend", "batch"), [("posix", 1), ("direct", 1), ("mapped", 1), ("uring", 2)]
)
def test_verified_content(target: Target, backend: str, batch: int) -> None:
    job = _job(backend=backend, batch=batch, direct=backend in ("direct", "uring"))
    try:
        row = _measured(job, target, verifies=True)
    except StorageError as error:
        if "forbids it" in str(error) or "no direct reads" in str(error):
            pytest.skip(str(error))
        raise
    assert row.verified_bytes == row.num_bytes > 0
    assert row.littles_law is None


class _Faulty(PosixStore):
    """Reads well but for one byte of one place, or gives the bytes of another place."""

    def __init__(self, *, wrong: int | None = None, shift: int = 0) -> None:
        super().__init__()
        self.wrong, self.shift = wrong, shift

    def read_into(self, path: str, offset: int, buffer: memoryview) -> int:
        count = super().read_into(path, (offset + self.shift) % SIZE, buffer)
        if self.wrong is not None and offset <= self.wrong < offset + len(buffer):
            buffer[self.wrong - offset] ^= 0x10
        return count


def test_a_wrong_byte_is_found_and_named(target: Target) -> None:
    with pytest.raises(DataError) as caught:
        _measured(
            _job(access="sequential", cache="cold"),
            target,
            _Faulty(wrong=500_000),
            verifies=True,
        )
    assert caught.value.offset == 500_000
    assert caught.value.shard == target.files[0][0]


def test_bytes_of_another_place_are_found(target: Target) -> None:
    with pytest.raises(DataError):
        _measured(_job(), target, _Faulty(shift=4096), verifies=True)


def test_existing_files_are_compared_with_a_second_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(os.urandom(SIZE))
    with target_of(str(tmp_path / "a"), size_bytes=0) as target:
        assert _measured(_job(), target, verifies=True).verified_bytes > 0
        with pytest.raises(DataError):
            _measured(_job(), target, _Faulty(shift=4096), verifies=True)


class _Failing(PosixStore):
    def read_into(self, path: str, offset: int, buffer: memoryview) -> int:
        raise StorageError("the device failed")


@pytest.mark.parametrize("depth", [1, 4])
def test_the_error_of_a_lane_ends_the_run(target: Target, depth: int) -> None:
    before = threading.active_count()
    with pytest.raises(StorageError, match="the device failed"):
        _measured(_job(queue_depth=depth), target, _Failing())
    assert threading.active_count() == before


def test_a_file_that_is_cut_meanwhile_is_an_error(target: Target) -> None:
    os.truncate(target.files[0][0], 5000)
    with pytest.raises(StorageError, match="changed while it was read"):
        _measured(_job(access="sequential"), target)


def test_objects_of_memory_are_measured() -> None:
    store = MemoryStore()
    store.write("memory://a", bytes(SIZE))
    target = Target(name="memory://a", files=(("memory://a", SIZE),), is_local=False)
    row = _measured(_job(backend="auto", cache="remote", batch=2), target, store)
    assert row.num_bytes > 0 and row.resident_before is None


# ---- sweeps --------------------------------------------------------------------------


def _swept(target: Target, jobs: Sequence[Job], **effort: Any) -> Findings:
    findings = Findings()
    values = {"seconds": 0.01, "repeats": 2, **effort}
    sweep(target, jobs, Effort(**values), findings=findings, on_row=lambda row: None)
    return findings


def test_every_job_ends_as_rows_or_as_a_reason(target: Target) -> None:
    jobs = [_job(), _job(destination="pinned"), _job(block_bytes=2 * SIZE)]
    findings = _swept(target, jobs)
    assert [row.job for row in findings.rows] == [jobs[0]] * 2
    assert [row.repeat for row in findings.rows] == [0, 1]
    reasons = {one.what.rpartition(": ")[2]: one.reason for one in findings.skipped}
    assert "no CUDA device" in reasons["destination pinned"]
    assert reasons["blocks of 2 MiB"] == f"the largest file has {SIZE} bytes"


def test_a_job_that_fails_costs_no_other_its_rows(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(store: Store, job: Job, *rest: Any, **options: Any) -> Row:
        if job.queue_depth == 2:
            raise StorageError("the device failed")
        return measure(store, job, *rest, **options)

    monkeypatch.setattr("iopipe.bench.storage.sweep.measure", failing)
    jobs = [_job(queue_depth=depth) for depth in (1, 2, 4)]
    findings = _swept(target, jobs)
    assert [row.job.queue_depth for row in findings.rows] == [1, 4] * 2
    (one,) = findings.skipped
    assert one.reason == "the device failed" and str(jobs[1]) in one.what


def test_a_budget_that_is_used_up_is_said(target: Target) -> None:
    jobs = [_job(queue_depth=depth) for depth in range(1, 40)]
    findings = _swept(target, jobs, budget_seconds=0.2)
    assert 0 < len(findings.rows) < 2 * len(jobs)
    (one,) = findings.skipped
    assert "give a larger --budget" in one.reason


def test_cold_is_refused_where_pages_stay(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_cache, "resident_fraction", lambda paths: 0.87)
    (one,) = _swept(target, [_job(cache="cold")]).skipped
    assert "87 % of the pages stay" in one.reason


def test_a_backend_that_is_not_there_is_skipped(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "cuda_torch", lambda: None)
    monkeypatch.setattr("iopipe.bench.storage.sweep.cuda_torch", lambda: None)
    (one,) = _swept(target, [_job(backend="gds", destination="gpu")]).skipped
    assert isinstance(one, Skipped) and "gds" in one.what and "kvikio" in one.reason


def test_the_cache_is_dropped_and_proven(tmp_path: Path) -> None:
    grid = Grid(backends=("posix",), queue_depths=(1,), caches=("cold",), block_bytes=(4096,))
    with target_of(str(tmp_path), size_bytes=SIZE) as target:
        findings = _swept(target, grid.jobs(in_memory=target.in_memory))
    for row in findings.rows:
        assert row.cache == "cold" and row.resident_before is not None
        assert row.resident_before <= page_cache.MOST_COLD
    assert findings.rows or findings.skipped


# ---- GPU memory, with a false kvikio and a false torch ---------------------------------


class _Event:
    def record(self, stream: object) -> None:
        self.recorded = True

    def synchronize(self) -> None:
        assert self.recorded


class _Cuda:
    Event = _Event

    class Stream:
        pass

    def stream(self, stream: object) -> Any:
        import contextlib

        return contextlib.nullcontext()


class _Torch:
    """Host tensors for the GPU's; what the lanes ask of torch."""

    cuda = _Cuda()

    def __getattr__(self, name: str) -> Any:
        import torch

        if name == "empty":
            return lambda *shape, dtype, **_: torch.zeros(*shape, dtype=dtype)
        return getattr(torch, name)


def test_reads_through_kvikio_end_in_its_memory(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_kvikio.install(monkeypatch)
    store = GdsStore(target.files[0][0], ask=lambda path: GdsPath("compat", "a test"))
    job = _job(backend="gds", destination="gpu", batch=2)

    class _DeviceTorch(_Torch):
        def __getattr__(self, name: str) -> Any:
            return _Room if name == "empty" else super().__getattr__(name)

    class _Room:
        def __init__(self, num_bytes: int, **_: object) -> None:
            self.num_bytes = num_bytes

        def split(self, each: int) -> list[Any]:
            return [fake_kvikio.DeviceArray(each) for _ in range(self.num_bytes // each)]

    blocks = np.array([[0, 4096], [0, 0], [0, 8192], [0, 12288]])
    lane = GdsLane(store, job, [target.files[0][0]], blocks, _DeviceTorch())
    assert lane.requests_each == 2 and len(lane.submissions) == 2
    lane.read(lane.submissions[0])
    data = np.fromfile(target.files[0][0], np.uint8)
    found = [request.buffer.memory for request in lane.submissions[0]]  # type: ignore[attr-defined]
    assert np.array_equal(found[0], data[4096:8192]) and np.array_equal(found[1], data[:4096])
    store.close()


@pytest.mark.parametrize("num_places", [1, 2])
def test_copies_to_the_gpu_bring_every_block(target: Target, num_places: int) -> None:
    blocks = np.array([[0, start] for start in range(0, 20 * 4096, 4096)])
    job = _job(destination="gpu" if num_places == 1 else "gpu_async")
    store = PosixStore()
    lane = CopyLane(store, job, [target.files[0][0]], blocks, _Torch(), num_places=num_places)
    data = np.fromfile(target.files[0][0], np.uint8)
    for submission in lane.submissions:
        lane.read(submission)
        ((_, offset, found),) = lane.content(submission)
        assert np.array_equal(np.frombuffer(found, np.uint8), data[offset : offset + 4096])
    lane.close()
    store.close()


class _Short:
    def wait(self) -> list[int]:
        return [100]


def test_a_short_read_is_an_error(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    def submit(self: PosixStore, requests: Sequence[ReadRequest]) -> Reads:
        return _Short()

    monkeypatch.setattr(PosixStore, "submit", submit)
    lane = CopyLane(
        PosixStore(), _job(destination="gpu"), [target.files[0][0]], np.array([[0, 0]]),
        _Torch(), num_places=1,
    )  # fmt: skip
    with pytest.raises(StorageError, match="100 of 4096 bytes"):
        lane.read(lane.submissions[0])
