"""What every backend promises, checked on each of them against plain bytes."""

from __future__ import annotations

import os
import pickle
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from iopipe.errors import NotFoundError, PipelineError, StorageError
from iopipe.protocols import ReadRequest, Store
from iopipe.storage import MemoryStore, PosixStore, open_store

CONTENT = random.Random(1).randbytes(1_000_003)


@dataclass(frozen=True)
class Case:
    store: Store
    path: str
    write: Callable[[bytes], None]


@pytest.fixture(params=["posix", "posix-url", "posix-no-nowait", "memory"])
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Case]:
    store: Store
    if request.param == "memory":
        memory = MemoryStore()
        store, path = memory, "memory://data.bin"
        write: Callable[[bytes], object] = lambda content: memory.write(path, content)  # noqa: E731
    else:
        store = PosixStore(num_threads=4)
        if request.param == "posix-no-nowait":
            store._can_try = False
        file = tmp_path / "data %41.bin"
        path = str(file) if request.param != "posix-url" else file.as_uri()
        write = file.write_bytes
    write(CONTENT)
    before = os.listdir("/proc/self/fd")
    yield Case(store, path, write)  # type: ignore[arg-type]
    store.close()
    store.close()
    assert len(os.listdir("/proc/self/fd")) == len(before)


@pytest.mark.parametrize(
    ("offset", "length"),
    [(0, 0), (0, 1), (1, 4096), (4095, 2), (511, 100_001), (0, 1_000_003), (1_000_002, 1)],
)
def test_ranges_are_read_exactly(case: Case, offset: int, length: int) -> None:
    buffer = bytearray(b"\xa5" * (length + 2))
    view = memoryview(buffer)[1:-1]
    assert case.store.read_into(case.path, offset, view) == length
    assert view == CONTENT[offset : offset + length]
    assert buffer[0] == buffer[-1] == 0xA5


@pytest.mark.parametrize(("offset", "expected"), [(999_999, 4), (1_000_003, 0), (5_000_000, 0)])
def test_reads_past_the_end_are_short(case: Case, offset: int, expected: int) -> None:
    buffer = bytearray(100)
    assert case.store.read_into(case.path, offset, memoryview(buffer)) == expected
    request = ReadRequest(case.path, offset, memoryview(buffer))
    assert case.store.submit([request]).wait() == [expected]
    assert buffer[:expected] == CONTENT[offset : offset + 100]


def test_a_thousand_requests_at_once(case: Case) -> None:
    generator = random.Random(2)
    places = [(generator.randrange(900_000), generator.randrange(5_000)) for _ in range(1000)]
    buffers = [bytearray(length) for _, length in places]
    requests = [
        ReadRequest(case.path, offset, memoryview(buffer))
        for (offset, _), buffer in zip(places, buffers, strict=True)
    ]
    assert case.store.submit(requests).wait() == [length for _, length in places]
    assert buffers == [CONTENT[offset : offset + length] for offset, length in places]


def test_many_threads_share_a_store(case: Case) -> None:
    def read(seed: int) -> bool:
        generator = random.Random(seed)
        for _ in range(50):
            offset, buffer = generator.randrange(900_000), bytearray(3000)
            case.store.read_into(case.path, offset, memoryview(buffer))
            if buffer != CONTENT[offset : offset + 3000]:
                return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(8)))


def test_size_version_and_glob_follow_the_content(case: Case) -> None:
    assert case.store.size(case.path) == len(CONTENT)
    before = case.store.version(case.path)
    assert case.store.version(case.path) == before
    case.write(b"other content")
    assert case.store.size(case.path) == 13
    assert case.store.version(case.path) != before
    pattern = case.path.rsplit("/", 1)[0] + "/d*.bin"
    assert len(case.store.glob(pattern)) == 1
    assert case.store.glob(pattern + ".none") == []


def test_what_shrinks_while_read_is_short_and_what_is_replaced_is_read_anew(case: Case) -> None:
    buffer = memoryview(bytearray(1000))
    assert case.store.read_into(case.path, 0, buffer) == 1000
    case.write(b"x" * 10)
    assert case.store.read_into(case.path, 0, buffer) == 10
    assert case.store.submit([ReadRequest(case.path, 4, buffer)]).wait() == [6]


def test_a_missing_path_is_named(case: Case) -> None:
    for call in (case.store.size, case.store.version):
        with pytest.raises(NotFoundError, match="nowhere"):
            call(case.path + "nowhere")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        case.store.read_into(case.path + "nowhere", 0, memoryview(bytearray(1)))


def test_the_first_error_of_a_batch_is_raised_after_the_others_ended(case: Case) -> None:
    buffer = bytearray(1000)
    good = ReadRequest(case.path, 0, memoryview(buffer))
    bad = ReadRequest(case.path + "nowhere", 0, memoryview(bytearray(1)))
    with pytest.raises(NotFoundError):
        case.store.submit([good, bad]).wait()


def test_describe_names_the_path(case: Case) -> None:
    assert case.store.describe().split(":")[0] in ("posix", "memory")


# ---- files only ----------------------------------------------------------------------


def _read_one(store: Store, path: object) -> None:
    store.read_into(str(path), 0, memoryview(bytearray(1)))


def test_folders_and_fifos_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    store = PosixStore()
    for path in (tmp_path, tmp_path / "fifo"):
        with pytest.raises(StorageError, match=str(path)):
            _read_one(store, path)
    store.close()


def test_permission_denied_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secret").write_bytes(b"x")

    def denied(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", denied)  # a privileged user is never denied for real
    with pytest.raises(StorageError, match="right to read"):
        _read_one(PosixStore(), tmp_path / "secret")


def test_too_many_open_files_names_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").write_bytes(b"x")

    def exhausted(*_: object) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "open", exhausted)
    with pytest.raises(StorageError, match="ulimit -n"):
        _read_one(PosixStore(), tmp_path / "data")


def test_few_descriptors_serve_many_files(tmp_path: Path) -> None:
    for number in range(40):
        (tmp_path / str(number)).write_bytes(bytes([number]) * 10)
    before = len(os.listdir("/proc/self/fd"))
    store = PosixStore(max_open_files=3)

    def read(number: int) -> int:
        buffer = bytearray(1)
        store.read_into(str(tmp_path / str(number % 40)), 0, memoryview(buffer))
        return buffer[0]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(read, range(400))) == [number % 40 for number in range(400)]
    assert len(os.listdir("/proc/self/fd")) <= before + 3
    store.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_store_travels_by_its_settings() -> None:
    store = pickle.loads(pickle.dumps(PosixStore(num_threads=3, advise="random")))
    assert store.describe() == "posix: pread, 3 threads, advice random"


@pytest.mark.parametrize("advise", ["random", "sequential", "willneed"])
def test_advice_changes_no_byte(tmp_path: Path, advise: str) -> None:
    (tmp_path / "data").write_bytes(CONTENT)
    store = PosixStore(advise=advise)  # type: ignore[arg-type]
    buffer = bytearray(len(CONTENT))
    assert store.read_into(str(tmp_path / "data"), 0, memoryview(buffer)) == len(CONTENT)
    assert buffer == CONTENT
    store.close()


@pytest.mark.parametrize("options", [{"num_threads": 0}, {"max_open_files": 0}, {"advise": "x"}])
def test_settings_are_checked(options: dict[str, int]) -> None:
    with pytest.raises(PipelineError):
        PosixStore(**options)  # type: ignore[arg-type]


def test_open_store_picks_by_url(tmp_path: Path) -> None:
    assert isinstance(open_store("a/b.tar"), PosixStore)
    assert isinstance(open_store("file:///a/b.tar"), PosixStore)
    assert open_store("memory://a") is open_store("memory://b")
    with pytest.raises(StorageError, match="ftp://"):
        open_store("ftp://host/a.tar")
