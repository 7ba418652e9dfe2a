"""What a store can give: measured, or taken from a benchmark, and the share that a run used."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from fakes.source import FakeToolkit, numbers

import iopipe
from iopipe.errors import PipelineError, StorageError
from iopipe.protocols import ByteRange, ReadRequest, Reads
from iopipe.storage import MemoryStore
from iopipe.storage.ceiling import Ceiling, ceiling_of_bench, probe


def _store() -> MemoryStore:
    store = MemoryStore()
    store.write("memory://numbers", bytes(range(250)) * 4000)
    return store


def test_what_is_read_counts_and_no_thread_is_left() -> None:
    ranges = [[ByteRange("memory://numbers", start, 1000)] * 4 for start in range(0, 90_000, 1000)]
    found = probe(_store(), iter(ranges * 50), seconds=0.03)
    assert found.bytes_per_second > 0
    assert "threads" in found.how
    assert not [one for one in threading.enumerate() if one.name == "iopipe-probe"]


def test_without_anything_to_read_there_is_no_ceiling() -> None:
    with pytest.raises(PipelineError, match="nothing to read"):
        probe(_store(), iter(()), seconds=0.01)


def test_an_error_of_the_store_is_the_errors_of_the_probe() -> None:
    class Broken(MemoryStore):
        def submit(self, requests: Sequence[ReadRequest]) -> Reads:
            raise StorageError("the disk is gone")

    with pytest.raises(StorageError, match="the disk is gone"):
        probe(Broken(), iter([[ByteRange("memory://numbers", 0, 1)]]), seconds=0.01)


def test_the_best_row_of_a_benchmark_into_host_memory_counts(tmp_path: Path) -> None:
    rows = [
        {"backend": "posix", "block_bytes": 4096, "gbps": 0.5, "destination": "host pageable"},
        {"backend": "direct", "block_bytes": 1 << 20, "gbps": 2.5, "destination": "host pinned"},
        {"backend": "gds", "block_bytes": 1 << 20, "gbps": 9.0, "destination": "GPU"},
    ]
    file = tmp_path / "storage.json"
    file.write_text(json.dumps({"schema": 1, "rows": rows}))
    found = ceiling_of_bench(file)
    assert found.bytes_per_second == 2.5e9
    assert found.how == "iopipe bench storage: direct, 1048576 bytes a read"
    for text in ("[]", "{", json.dumps({"rows": rows[2:]}), json.dumps({"rows": [{"gbps": 1}]})):
        file.write_text(text)
        with pytest.raises(PipelineError):
            ceiling_of_bench(file)


def test_the_report_names_the_share_of_what_was_measured() -> None:
    ceiling = Ceiling(bytes_per_second=1e9, how="by hand")
    with numbers(64, sample_bytes=1000).batch(8).run(ceiling=ceiling) as run:
        for _ in run:
            continue
        report = run.report()
    use = report.storage
    assert use is not None
    assert use.bytes_per_second * report.wall_seconds == pytest.approx(64_000)
    percent = 100 * use.bytes_per_second / 1e9
    assert f"storage is at {percent:.0f} % of its measured ceiling" in report.verdict
    assert report.to_json()["storage"]["how"] == "by hand"


def test_nobody_measured_it_so_nothing_is_said() -> None:
    with numbers(64).batch(8).run() as run:
        for _ in run:
            continue
        assert run.report().storage is None
        assert "ceiling" not in run.report().verdict


def test_a_pipeline_is_probed_in_its_order_from_the_middle_on() -> None:
    class Noting(MemoryStore):
        asked: list[int] = []  # noqa: RUF012

        def submit(self, requests: Sequence[ReadRequest]) -> Reads:
            self.asked += [request.offset // 1000 for request in requests]
            return super().submit(requests)

    class Toolkit(FakeToolkit):
        def open_store(self, source: iopipe.Source) -> iopipe.Store:
            store = Noting()
            store.write("memory://numbers", bytes(100_000))
            return store

    pipeline = numbers(100, sample_bytes=1000, toolkit=Toolkit()).batch(10)
    found = iopipe.measure_storage(pipeline, seconds=0.02)
    assert found.bytes_per_second > 0
    assert Noting.asked[:50] == list(range(50, 100))
