"""Limits of the operating system, met for real: in processes of their own, which may be harmed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fakes.object_server import ObjectServer
from fakes.stores import LOCAL

from iopipe.protocols import ReadRequest
from iopipe.storage.cache import CachedStore
from iopipe.storage.objects import ObjectStore
from iopipe.storage.remote import RemoteStore


@pytest.fixture(autouse=True)
def _filled(server: ObjectServer) -> None:
    server.objects["a"] = bytes(range(250)) * 400


FORBIDDEN = """
import os, sys
from fakes.stores import LOCAL
from iopipe.errors import StorageError
from iopipe.protocols import ReadRequest
from iopipe.storage import MemoryStore
from iopipe.storage.cache import CachedStore
from iopipe.storage.remote import RemoteStore
path = sys.argv[1]
store = RemoteStore("local://" + path) if sys.argv[2] == "remote" else None
if os.geteuid() == 0:
    os.seteuid(65534)
try:
    if sys.argv[2] == "cache":
        CachedStore(MemoryStore(), path + ".cache", max_bytes=1 << 30)
    store = store or LOCAL[sys.argv[2]]()
    name = "file://" + path if sys.argv[2] == "remote" else path
    store.submit([ReadRequest(name, 0, memoryview(bytearray(9)))]).wait()
except StorageError as error:
    print(error)
"""


@pytest.mark.parametrize("name", [*LOCAL, "remote", "cache"])
def test_permission_denied_by_the_kernel(name: str, tmp_path: Path) -> None:
    file = tmp_path / "a.bin"
    file.write_bytes(b"secret")
    file.chmod(0)
    (tmp_path / "a.bin.cache").mkdir(mode=0)
    done = subprocess.run(
        [sys.executable, "-c", FORBIDDEN, str(file), name],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        timeout=60,
    )
    (tmp_path / "a.bin.cache").chmod(0o700)
    assert "ermission denied" in done.stdout and "a.bin" in done.stdout, done.stderr


FORKED = """
import os, signal, sys
from iopipe.errors import StorageError
from iopipe.protocols import ReadRequest
from iopipe.storage.objects import ObjectStore
from iopipe.storage.remote import RemoteStore
kind, url = sys.argv[1:]
store = ObjectStore(url) if kind == "objects" else RemoteStore(url)
request = ReadRequest(url + "a", 3, memoryview(bytearray(10)))
assert store.submit([request]).wait() == [10]
calls = (lambda: store.submit([request]).wait(), lambda: store.read_into(*request_of(request)),
         lambda: store.size(url + "b"), lambda: store.version(url + "b"), lambda: store.glob(url))
def request_of(one):
    return one.path, one.offset, one.buffer
child = os.fork()
if child == 0:
    signal.alarm(20)
    for call in calls:
        try:
            call()
        except StorageError as error:
            if "does not survive a fork" not in str(error):
                os._exit(1)
        else:
            os._exit(2)
    os._exit(42)
_, status = os.waitpid(child, 0)
print(os.waitstatus_to_exitcode(status), store.submit([request]).wait(), flush=True)
os._exit(0)
"""


@pytest.mark.parametrize("kind", ["objects", "remote"])
def test_forked_child_is_told_to_open_its_own_store(
    kind: str, server: ObjectServer, tmp_path: Path
) -> None:
    """Threads of the client library do not survive, and who asks them waits for ever."""
    (tmp_path / "a").write_bytes(bytes(100))
    url = server.url if kind == "objects" else f"file://{tmp_path}/"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKED, kind, url],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "42 [10]\n", done.stderr


FULL_TABLE = """
import os, resource, sys
from iopipe.errors import StorageError
from iopipe.storage.objects import ObjectStore
store = ObjectStore(sys.argv[1])
print(store.size(sys.argv[1] + "a"))
url = sys.argv[1].replace("127.0.0.1", "127.0.0.2")
other = ObjectStore(url, deadline_seconds=9)
lowest_free = os.dup(0)
os.close(lowest_free)
resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, lowest_free))
try:
    other.size(url + "a")
except StorageError as error:
    print(error)
os._exit(0)
"""


def test_too_many_open_files_for_another_connection(server: ObjectServer) -> None:
    command = [sys.executable, "-c", FULL_TABLE, server.url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    lines = done.stdout.splitlines()
    assert lines[0] == "100000", done.stderr
    assert "cannot find" in lines[1] and "too many open files" in lines[1].lower()


@pytest.mark.parametrize("kind", ["objects", "cache"])
def test_stores_leave_no_descriptor(kind: str, server: ObjectServer, tmp_path: Path) -> None:
    """Connections end soon after their store, in threads that are not ours."""

    def one_life() -> None:
        store: ObjectStore | CachedStore = ObjectStore(server.url, concurrency=4)
        if kind == "cache":
            store = CachedStore(store, tmp_path / "c", max_bytes=1 << 20, block_bytes=1 << 12)
        buffers = [bytearray(5000) for _ in range(20)]
        requests = [ReadRequest(f"{server.url}a", 7, memoryview(one)) for one in buffers]
        assert store.submit(requests).wait() == [5000] * 20
        store.close()

    one_life()
    before = settled(0)
    for _ in range(5):
        one_life()
    assert settled(before) <= before


def settled(goal: int) -> int:
    """How many descriptors are open when it is no more than `goal`, or when that takes long."""
    end = time.monotonic() + (5 if goal else 0.5)
    while (count := len(os.listdir("/proc/self/fd"))) > goal and time.monotonic() < end:
        time.sleep(0.01)
    return count


def test_a_file_of_fsspec_that_shrinks_or_is_none(tmp_path: Path) -> None:
    file, store = tmp_path / "a.bin", RemoteStore(f"local://{tmp_path}", part_bytes=4096)
    file.write_bytes(bytes(range(250)) * 100)
    buffer = bytearray(25_000)
    request = ReadRequest(f"file://{file}", 0, memoryview(buffer))
    assert store.submit([request]).wait() == [25_000]
    os.truncate(file, 9_000)
    assert store.submit([request]).wait() == [9_000]
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(OSError, match="a pipe, socket or device"):
        store.read_into(f"file://{tmp_path}/fifo", 0, memoryview(bytearray(9)))
    store.close()
