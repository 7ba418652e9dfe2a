"""One folder, many processes: each block fetched once, the limit held, nothing wrong left by those
that are killed."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from fakes.caches import BLOCK, CONTENT, ENTRY, cached, entries, num_bytes, read
from fakes.object_server import ObjectServer

from iopipe.storage.cache_folder import CacheFolder


@pytest.fixture(autouse=True)
def _filled(server: ObjectServer) -> None:
    server.objects["set/a.bin"] = CONTENT


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


FORKED = """
import os, signal, sys
from iopipe.storage.cache_folder import CacheFolder, _removed
folder, name = CacheFolder(sys.argv[1], max_bytes=1 << 20), "0" * 32 + "-0"
folder.publish(name, memoryview(bytes(4096)))
entry = folder.open(name)
with folder.filling(name, patience_seconds=0), folder._limit():
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        signal.pause()
entry.close()
signal.alarm(30)
with folder.filling(name, patience_seconds=0) as is_ours, folder._limit():
    print(is_ours, _removed(folder._path(name)))
os.kill(child, signal.SIGKILL)
"""


def test_locks_end_though_a_child_was_forked_under_them(tmp_path: Path) -> None:
    """A child has all open files of its parent, and lives on for as long as it wants."""
    command = [sys.executable, "-c", FORKED, str(tmp_path / "c")]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=60)
    assert done.stdout == "True True\n"


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
