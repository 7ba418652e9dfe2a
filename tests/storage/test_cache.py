"""A disk cache: the right bytes, of one version, whatever happens to the disk."""

from __future__ import annotations

import errno
import logging
import os
import pickle
from pathlib import Path

import pytest
from fakes.caches import BLOCK, CONTENT, ENTRY, cached, entries, read
from fakes.object_server import ObjectServer

import iopipe
from iopipe.errors import PipelineError, StorageError
from iopipe.protocols import ReadRequest
from iopipe.storage import MemoryStore
from iopipe.storage.cache import CachedStore
from iopipe.storage.remote import RemoteStore


@pytest.fixture(autouse=True)
def _filled(server: ObjectServer) -> None:
    server.objects["set/a.bin"] = CONTENT


def test_what_was_read_is_read_from_the_disk(server: ObjectServer, tmp_path: Path) -> None:
    path = f"{server.url}set/a.bin"
    ranges = [(0, 1), (5, 3 * BLOCK), (BLOCK - 1, 2), (20 * BLOCK, 99), (len(CONTENT), 1), (0, 0)]
    for number in range(2):
        store = cached(server, tmp_path / "c")
        for offset, length in ranges:
            assert read(store, path, offset, length) == CONTENT[offset : offset + length]
        assert read(store, path) == CONTENT and store.num_misses == (0 if number else 21)
        store.close()
    assert server.statuses.count(206) == 21
    assert len(entries(tmp_path / "c")) == 21
    assert {one.name for one in (tmp_path / "c").iterdir() if not one.is_dir()} == {
        *("iopipe-cache", "locks", "used")
    }


def test_one_submission_fetches_a_block_once(server: ObjectServer, tmp_path: Path) -> None:
    store, path = cached(server, tmp_path), f"{server.url}set/a.bin"
    buffers = [bytearray(100) for _ in range(1000)]
    starts = [7 * number for number in range(1000)]
    requests = [ReadRequest(path, at, memoryview(b)) for at, b in zip(starts, buffers, strict=True)]
    assert store.submit(requests).wait() == [100] * 1000
    assert buffers == [CONTENT[at : at + 100] for at in starts]
    store.close()
    assert server.statuses.count(206) == 2


def test_a_changed_object_is_not_mixed(server: ObjectServer, tmp_path: Path) -> None:
    path = f"{server.url}set/a.bin"
    old = cached(server, tmp_path)
    assert read(old, path, 0, BLOCK) == CONTENT[:BLOCK]
    server.objects["set/a.bin"] = CONTENT[::-1]
    assert read(old, path, 0, BLOCK) == CONTENT[:BLOCK]
    with pytest.raises(StorageError, match="changed since it was opened"):
        read(old, path, BLOCK, BLOCK)
    new = cached(server, tmp_path)
    assert read(new, path) == CONTENT[::-1]
    old.close()
    new.close()


def test_a_changed_file_of_fsspec_is_not_mixed(tmp_path: Path) -> None:
    """Its file systems make no conditional requests: the version is asked again."""
    file = tmp_path / "a.bin"
    file.write_bytes(CONTENT)
    store = cached(RemoteStore(f"local://{tmp_path}"), tmp_path / "c")
    assert read(store, f"file://{file}", 0, BLOCK) == CONTENT[:BLOCK]
    file.write_bytes(CONTENT[::-1] + b"x")
    with pytest.raises(StorageError, match="changed since it was opened"):
        read(store, f"file://{file}", BLOCK, BLOCK)
    store.close()


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_damaged_entries_are_fetched_again(server: ObjectServer, tmp_path: Path) -> None:
    path = f"{server.url}set/a.bin"
    store = cached(server, tmp_path)
    assert read(store, path) == CONTENT
    files = entries(tmp_path)
    flip(files[0])
    os.truncate(files[1], 100)
    files[2].write_bytes(b"")
    files[3].write_bytes(files[4].read_bytes())  # whole, and another's
    files[5].write_bytes(files[5].read_bytes() + b"x")
    assert read(store, path) == CONTENT and store.num_damaged == 5
    store.close()
    again = cached(server, tmp_path)
    assert read(again, path) == CONTENT and (again.num_damaged, again.num_misses) == (0, 0)
    again.close()
    assert server.statuses.count(206) == 21 + 5


def test_a_full_disk_is_passed_by_and_said_once(
    server: ObjectServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING, "iopipe")
    path, store = f"{server.url}set/a.bin", cached(server, tmp_path)
    assert read(store, path, 0, BLOCK) == CONTENT[:BLOCK]

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    for _ in range(3):
        assert read(store, path) == CONTENT
    monkeypatch.undo()
    assert len(caplog.records) == 1
    said = caplog.records[0].getMessage()
    assert "is passed by: No space left on device" in said and str(tmp_path) in said
    assert "passed by: No space left on device" in store.describe()
    assert len(entries(tmp_path)) == 1 and store.num_hits >= 3
    monkeypatch.setattr(store, "_disk_again_at", 0.0)
    assert read(store, path) == CONTENT and len(entries(tmp_path)) == 21
    assert "passed by" not in store.describe()
    store.close()


def test_folders_that_are_no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset" / "a.tar").write_bytes(b"x")
    with pytest.raises(StorageError, match=r"holds 'a\.tar' and is no cache"):
        cached(MemoryStore(), tmp_path / "dataset")
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(StorageError, match="can be written to by everybody"):
        cached(MemoryStore(), tmp_path / "open")
    with pytest.raises(StorageError, match=r"cannot keep a cache in .*Not a directory"):
        cached(MemoryStore(), tmp_path / "dataset" / "a.tar" / "c")
    with pytest.raises(PipelineError, match="holds no two blocks"):
        cached(MemoryStore(), tmp_path / "c", num_blocks=1)
    with pytest.raises(PipelineError, match="num_threads=0 must be 1 or more"):
        CachedStore(MemoryStore(), tmp_path / "c", max_bytes=1 << 30, num_threads=0)


def test_two_that_make_the_folder_at_once(
    server: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one has made it and filled it while this one looked at it."""
    path, other = f"{server.url}set/a.bin", cached(server, tmp_path)
    read(other, path)
    other.close()
    exists, seen = Path.exists, []

    def late(file: Path) -> bool:
        seen.append(file.name)
        return len(seen) > 1 and exists(file)

    monkeypatch.setattr(Path, "exists", late)
    store = cached(server, tmp_path)
    assert seen == ["iopipe-cache"] * 2
    assert read(store, path) == CONTENT and store.num_misses == 0
    store.close()


def test_files_of_others_are_left_alone(server: ObjectServer, tmp_path: Path) -> None:
    store, path = cached(server, tmp_path, num_blocks=2), f"{server.url}set/a.bin"
    read(store, path, 0, BLOCK)
    others = [tmp_path / "notes.txt", entries(tmp_path)[0].parent / "original.tar"]
    for other in others:
        other.write_bytes(bytes(9 * ENTRY))
        os.utime(other, (1, 1))
    assert read(store, path) == CONTENT
    assert all(other.stat().st_size == 9 * ENTRY for other in others)
    store.close()


def test_a_pipeline_reads_through_the_cache(server: ObjectServer, tmp_path: Path) -> None:
    with iopipe.DatasetWriter(tmp_path / "d", max_samples=10) as writer:
        for number in range(30):
            writer.write({"__key__": f"k{number:02}", "txt": f"text {number}" * 99})
    for file in (tmp_path / "d").iterdir():
        server.objects[f"b/d/{file.name}"] = file.read_bytes()
    keys = {"access_key_id": "a", "secret_access_key": "b", "region": "us-east-1"}
    options = {**keys, "endpoint": server.endpoint, "virtual_hosted_style_request": False}
    asked = []
    for _ in range(2):
        store = iopipe.open_store(
            "s3://b/d", cache=tmp_path / "c", max_cache_bytes=64 << 20, options=options
        )
        assert isinstance(store, iopipe.CachedStore)
        pipeline = iopipe.read("s3://b/d/shard-{000000..000002}.tar", store=store).batch(7)
        with pipeline.run() as run:
            keys_read = [key for batch in run for key in batch["__key__"]]
        assert keys_read == [f"k{number:02}" for number in range(30)]
        asked.append(server.statuses.count(206))
        store.close()
    assert asked[0] == asked[1] > 0


def test_a_pickled_store_shares_the_folder(server: ObjectServer, tmp_path: Path) -> None:
    store, path = cached(server, tmp_path), f"{server.url}set/a.bin"
    assert read(store, path) == CONTENT
    twin = pickle.loads(pickle.dumps(store))
    assert read(twin, path) == CONTENT and twin.num_misses == 0
    store.close()
    twin.close()
