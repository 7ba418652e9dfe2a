"""WebDataset shards that we write: others read them, and nothing half-done is left."""

from __future__ import annotations

import json
import os
import resource
import signal
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes.tars import read_by_webdataset

from iopipe.errors import DataError, StorageError
from iopipe.protocols import Store
from iopipe.readers import DatasetWriter, WebDatasetSource
from iopipe.readers.sidecar import SUFFIX
from iopipe.storage import PosixStore


@pytest.fixture
def store() -> Iterator[Store]:
    posix = PosixStore()
    yield posix
    posix.close()


def test_others_read_what_we_write(tmp_path: Path) -> None:
    samples = [
        {"__key__": f"p/{number:03d}" + "x" * (number * 12), "jpg": os.urandom(50), "cls": number}
        for number in range(12)
    ]
    with DatasetWriter(tmp_path, max_samples=5) as writer:
        for sample in samples:
            writer.write(sample)
    shards = sorted(str(path) for path in tmp_path.glob("*.tar"))
    assert len(shards) == 3
    expected = [{**sample, "cls": str(sample["cls"]).encode()} for sample in samples]
    assert read_by_webdataset(shards, ("__key__", "jpg", "cls")) == expected
    with tarfile.open(shards[0]) as archive:
        assert [info.size for info in archive][:2] == [50, 1]
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["num_samples"] == 12
    assert [shard["num_bytes"] for shard in manifest["shards"]] == [
        os.path.getsize(shard) for shard in shards
    ]


def test_the_writers_index_is_the_one_that_would_be_built(tmp_path: Path, store: Store) -> None:
    with DatasetWriter(tmp_path) as writer:
        for number in range(30):
            writer.write({"__key__": str(number), "jpg": b"x" * number * 40 + b"y", "cls": 1})
    shard = str(tmp_path / "shard-000000.tar")
    stored = os.stat(shard + SUFFIX).st_mtime_ns
    written = WebDatasetSource([shard], store)
    assert os.stat(shard + SUFFIX).st_mtime_ns == stored
    os.unlink(shard + SUFFIX)
    built = WebDatasetSource([shard], store)
    assert written.digest == built.digest
    assert written.ranges(range(30)) == built.ranges(range(30))


def test_a_writer_that_failed_leaves_no_half_shard_and_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="fields"), DatasetWriter(tmp_path) as writer:
        writer.write({"__key__": "1", "jpg": b"x"})
        writer.write({"__key__": "2", "png": b"x"})
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_no_half_shard_and_no_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with DatasetWriter(tmp_path, max_samples=1) as writer:
        writer.write({"__key__": "1", "jpg": b"x"})
        shard = tmp_path / "shard-000000.tar"
    content = shard.read_bytes()
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limit[1]))  # as a full disk: write fails
    try:
        with (
            pytest.raises(StorageError, match=r"shard-000000\.tar.*file too large"),
            DatasetWriter(tmp_path) as writer,
        ):
            writer.write({"__key__": "1", "jpg": b"x" * 5_000_000})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, before)
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".tar"] == [shard.name]
    assert shard.read_bytes() == content
    assert not list(tmp_path.glob("*.tmp"))
    assert not (tmp_path / "manifest.json").exists()


@pytest.mark.parametrize(
    "sample",
    [
        {"__key__": "a.b", "jpg": b"x"},
        {"__key__": "a", "JPG": b"x"},
        {"__key__": "../a", "jpg": b"x"},
        {"__key__": "/a", "jpg": b"x"},
        {"__key__": "a"},
        {"__key__": "a", "jpg": 1.5},
        {"__key__": "a", "jpg": b""},
    ],
)
def test_samples_that_could_not_be_read_back_are_refused(
    tmp_path: Path, sample: dict[str, Any]
) -> None:
    with pytest.raises(DataError), DatasetWriter(tmp_path) as writer:
        writer.write(sample)
