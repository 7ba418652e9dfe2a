"""A disk cache: the right bytes, each fetched once, within the limit, whatever happens."""

from __future__ import annotations

import errno
import json
import logging
import os
import pickle
import random
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from fakes.object_server import ObjectServer

import iopipe
from iopipe.errors import PipelineError, StorageError
from iopipe.protocols import ReadRequest, Store
from iopipe.storage import MemoryStore
from iopipe.storage.cache import CachedStore
from iopipe.storage.cache_folder import CacheFolder
from iopipe.storage.objects import ObjectStore
from iopipe.storage.remote import RemoteStore

BLOCK = 4096
ENTRY = BLOCK + 32
CONTENT = np.random.default_rng(5).integers(0, 256, 20 * BLOCK + 17, dtype=np.uint8).tobytes()


@pytest.fixture(autouse=True)
def _filled(server: ObjectServer) -> None:
    server.objects["set/a.bin"] = CONTENT


def cached(below: Store | ObjectServer, folder: Path, *, num_blocks: int = 100) -> CachedStore:
    store = ObjectStore(below.url) if isinstance(below, ObjectServer) else below
    limit = num_blocks * ENTRY
    return CachedStore(store, folder, max_bytes=limit, block_bytes=BLOCK, num_threads=4)


def read(store: Store, path: str, offset: int = 0, length: int = len(CONTENT)) -> bytes:
    buffer = bytearray(length)
    return bytes(buffer[: store.read_into(path, offset, memoryview(buffer))])


def entries(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("??/*"))


def num_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in entries(folder))


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


READ_ALL = """
import sys
from iopipe.protocols import ReadRequest
from iopipe.storage.cache import CachedStore
from iopipe.storage.objects import ObjectStore
url, folder, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
store = CachedStore(ObjectStore(url), folder, max_bytes=1 << 20, block_bytes=4096, num_threads=4)
print("ready", flush=True)
sys.stdin.readline()
buffer = bytearray(size)
store.read_into(url + "set/a.bin", 0, memoryview(buffer))
store.close()
sys.stdout.buffer.write(buffer)
"""


def test_processes_fetch_an_entry_once(server: ObjectServer, tmp_path: Path) -> None:
    command = [sys.executable, "-c", READ_ALL, server.url, str(tmp_path / "c"), str(len(CONTENT))]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(3)
    ]
    for process in processes:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.flush()
    assert [process.communicate(timeout=60)[0] for process in processes] == [CONTENT] * 3
    assert server.statuses.count(206) == 21


KILLED = """
import fcntl, json, os, signal, sys
from iopipe.protocols import ReadRequest
from iopipe.storage import MemoryStore
from iopipe.storage.cache import CachedStore

folder, block, num_blocks = sys.argv[1], 4096, 3
content = b"".join(bytes([n]) * block for n in range(7)) + b"tail"
below = MemoryStore()
below.write("memory://a", content)
CALLS = [(os, name) for name in
         ("open", "close", "write", "pwrite", "pread", "preadv", "link", "unlink", "fstat", "stat",
          "utime", "makedirs", "scandir")] + [(fcntl, "flock"), (fcntl, "fcntl")]

def fill(kill_at):
    count = 0
    def counted(function):
        def call(*arguments, **keywords):
            nonlocal count
            count += 1
            if count == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **keywords)
        return call
    for module, name in CALLS:
        setattr(module, name, counted(getattr(module, name)))
    read()

def read():
    store = CachedStore(below, folder, max_bytes=num_blocks * (block + 32), block_bytes=block,
                        num_threads=1)
    buffer = bytearray(len(content))
    for offset in (0, 4 * block):
        store.read_into("memory://a", offset, memoryview(buffer)[offset:])
    store.close()
    assert buffer == content and store.num_damaged == 0

def forked(call, *arguments):
    child = os.fork()
    if child == 0:
        try:
            call(*arguments)
        except BaseException as error:
            print(repr(error), flush=True)
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

num_kills, most = 0, 0
while (code := forked(fill, num_kills + 1)) == -signal.SIGKILL:
    num_kills += 1
    files = [os.path.join(at, name) for at, _, names in os.walk(folder) for name in names]
    ours = ("iopipe-cache", "locks", "used")
    kept = [file for file in files if os.path.basename(file) not in ours]
    assert all(os.path.getsize(file) in (block + 32, 4 + 32) for file in kept), kept
    most = max(most, sum(os.path.getsize(file) for file in kept))
    if num_kills % 10 == 0:
        assert forked(read) == 0
print(json.dumps({"code": code, "num_kills": num_kills, "most": most}))
"""


def test_a_process_killed_at_any_call_leaves_nothing_wrong(tmp_path: Path) -> None:
    """Killed before each of its system calls in turn, on a cache of three blocks that eight
    go through: the next reader gets the right bytes, and only whole entries within the limit
    remain."""
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "c")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)
    assert told["code"] == 0 and told["num_kills"] > 100
    assert 2 * ENTRY < told["most"] <= 3 * ENTRY


def test_killed_by_others_while_many_threads_fill(server: ObjectServer, tmp_path: Path) -> None:
    draws = random.Random(3)
    command = [sys.executable, "-c", READ_ALL, server.url, str(tmp_path / "c"), str(len(CONTENT))]
    for _ in range(3):
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdin is not None and process.stdout is not None
        process.stdout.readline()
        asked = server.statuses.count(206)
        process.stdin.write(b"\n")
        process.stdin.flush()
        goal = asked + draws.randrange(1, 9)
        while server.statuses.count(206) < goal and process.poll() is None:
            pass
        process.kill()
        process.communicate()
        for file in entries(tmp_path / "c")[::2]:  # what remains must be fetched again
            file.unlink()
    store = cached(server, tmp_path / "c")
    assert read(store, f"{server.url}set/a.bin") == CONTENT and store.num_damaged == 0
    store.close()


def test_the_limit_is_held_and_what_was_used_last_stays(
    server: ObjectServer, tmp_path: Path
) -> None:
    store, path = cached(server, tmp_path, num_blocks=4), f"{server.url}set/a.bin"
    for number in range(4):
        read(store, path, number * BLOCK, 1)
    for age, file in enumerate(entries(tmp_path)):
        number = int(file.name.rpartition("-")[2])
        os.utime(file, (1e9 + age, 1e9 + age) if number != 0 else (1e9, 1e9))
    read(store, path, 0, 1)  # the oldest is used, and so the newest
    for number in range(4, 20):
        read(store, path, number * BLOCK, 1)
        assert num_bytes(tmp_path) <= 4 * ENTRY
        if number == 4:
            left = {int(file.name.rpartition("-")[2]) for file in entries(tmp_path)}
            assert 0 in left and 4 in left and len(left) < 5
    assert int.from_bytes((tmp_path / "used").read_bytes(), "little") == num_bytes(tmp_path)
    store.close()


def test_what_is_in_use_is_not_evicted(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path, max_bytes=3 * ENTRY)
    names = [f"{number:032x}-0" for number in range(9)]
    for name in names[:3]:
        assert folder.publish(name, memoryview(CONTENT)[:BLOCK])
    held = [folder.open(name) for name in names[:2]]
    for name in names[3:]:
        assert folder.publish(name, memoryview(CONTENT)[:BLOCK])
    kept = {file.name for file in entries(tmp_path)}
    assert {*names[:2]} <= kept and num_bytes(tmp_path) <= 3 * ENTRY
    last = folder.open(names[8])
    assert last is not None
    assert not folder.publish(names[3], memoryview(CONTENT)[:BLOCK])  # all is in use
    for entry in (*held, last):
        assert entry is not None
        buffer = bytearray(BLOCK)
        entry.read_into(0, memoryview(buffer))
        assert buffer == CONTENT[:BLOCK]
        entry.close()
    assert folder.publish(names[3], memoryview(CONTENT)[:BLOCK])


def test_evictions_under_readers(server: ObjectServer, tmp_path: Path) -> None:
    stores = [cached(server, tmp_path, num_blocks=3) for _ in range(2)]
    path = f"{server.url}set/a.bin"
    wrong: list[int] = []

    def work(seed: int) -> None:
        draws = random.Random(seed)
        for _ in range(60):
            at, length = draws.randrange(len(CONTENT)), draws.randrange(2 * BLOCK)
            if read(stores[seed % 2], path, at, length) != CONTENT[at : at + length]:
                wrong.append(at)
            if num_bytes_of(tmp_path) > 3 * ENTRY:
                wrong.append(-1)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for store in stores:
        assert store.num_damaged == 0 and store.num_hits > 0
        store.close()
    assert not wrong


def num_bytes_of(folder: Path) -> int:
    """The folder as one reads it while entries come and go: never more than there were."""
    return min(num_bytes_once(folder), num_bytes_once(folder))


def num_bytes_once(folder: Path) -> int:
    with CacheFolder(folder, max_bytes=1 << 30)._limit() as used:
        del used
        return num_bytes(folder)


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
