"""GPU memory: the store against a kvikio of the tests' own; real ones are marked `gpu`."""

from __future__ import annotations

import os
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import kvikio as fake
from fakes.kvikio import DeviceArray

from iopipe.errors import MissingDependency, NotFoundError, PipelineError, StorageError
from iopipe.protocols import ReadRequest
from iopipe.storage import open_store
from iopipe.storage.gds import DeviceRead, GdsStore
from iopipe.storage.gds_probe import GdsPath

CONTENT = np.random.default_rng(3).integers(0, 256, 70_001, dtype=np.uint8)
SIZE = len(CONTENT)
DIRECT, COMPAT = GdsPath("gpudirect"), GdsPath("compat", "neither this nor that")


def answers_compat(path: str) -> GdsPath:
    return COMPAT


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    return fake.install(monkeypatch)


@pytest.fixture
def path(tmp_path: Path) -> str:
    file = tmp_path / "a.bin"
    file.write_bytes(CONTENT.tobytes())
    return str(file)


@pytest.fixture
def store(settings: dict[str, Any], path: str) -> GdsStore:
    return GdsStore(path, num_threads=3, task_bytes=4096, max_open_files=2, ask=answers_compat)


RANGES = [(0, 0), (0, 1), (4097, 8191), (SIZE - 3, 3), (0, SIZE), (SIZE - 3, 10), (SIZE + 9, 5)]


def test_device_buffers_are_filled_up_to_the_end(store: GdsStore, path: str) -> None:
    arrays = [DeviceArray(length) for _, length in RANGES]
    requests = [
        DeviceRead(path, offset, array) for (offset, _), array in zip(RANGES, arrays, strict=True)
    ]
    counts = store.submit_to_device(requests).wait()
    for (offset, length), array, count in zip(RANGES, arrays, counts, strict=True):
        expected = CONTENT[offset : offset + length]
        assert count == len(expected) and (array.memory[:count] == expected).all()
        assert (array.memory[count:] == 0xA5).all()


def test_host_buffers_need_no_kvikio(store: GdsStore, path: str) -> None:
    buffer = bytearray(100)
    assert store.read_into(path, 5, memoryview(buffer)) == 100
    assert store.submit([ReadRequest(path, 5, memoryview(buffer))]).wait() == [100]
    assert buffer == CONTENT[5:105].tobytes() and fake.CuFile.opened == []


def test_first_error_is_raised_after_the_others_are_served(store: GdsStore, path: str) -> None:
    arrays = [DeviceArray(1000) for _ in range(10)]
    names = [path] * 10
    names[3], names[7] = path + "-first", path + "-second"
    reads = store.submit_to_device(
        [DeviceRead(name, 7, array) for name, array in zip(names, arrays, strict=True)]
    )
    with pytest.raises(NotFoundError, match="first"):
        reads.wait()
    good = [a for n, a in zip(names, arrays, strict=True) if n == path]
    assert all((array.memory == CONTENT[7:1007]).all() for array in good)


def test_failure_of_kvikio_names_path_and_offset(
    store: GdsStore, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "pread", lambda *_: b"")
    with pytest.raises(StorageError, match=r"a\.bin' at offset 7 into GPU memory: POSIX.*EOF"):
        store.submit_to_device([DeviceRead(path, 7, DeviceArray(9))]).wait()


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (DeviceArray(5, read_only=True), "read-only"),
        (DeviceArray(5, strides=(2,)), "strides; give contiguous"),
    ],
)
def test_unfit_buffers(store: GdsStore, path: str, array: DeviceArray, said: str) -> None:
    with pytest.raises(StorageError, match=said):
        store.submit_to_device([DeviceRead(path, 0, array)]).wait()
    assert (array.memory == 0xA5).all()


def test_what_is_no_file(store: GdsStore, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for name, said in (("", "a directory"), ("fifo", "a pipe, socket or device")):
        with pytest.raises(StorageError, match=said):
            store.submit_to_device([DeviceRead(str(tmp_path / name), 0, DeviceArray(1))]).wait()
    with pytest.raises(StorageError, match="offset -1: give 0 or more"):
        store.submit_to_device([DeviceRead(str(tmp_path / "a.bin"), -1, DeviceArray(1))]).wait()


def test_files_are_kept_open_few_at_a_time_and_anew_when_replaced(
    store: GdsStore, path: str, tmp_path: Path
) -> None:
    def first(name: str) -> int:
        array = DeviceArray(1)
        store.submit_to_device([DeviceRead(name, 0, array)]).wait()
        return int(array.memory[0])

    for _ in range(3):
        assert first(path) == CONTENT[0]
    assert fake.CuFile.opened == [path]
    (tmp_path / "new").write_bytes(b"\x07")
    os.replace(tmp_path / "new", path)
    assert first(path) == 7
    for number in range(4):
        (tmp_path / str(number)).write_bytes(bytes([number]))
        assert first(str(tmp_path / str(number))) == number
    links = [os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")]
    assert sum(link.startswith(str(tmp_path)) for link in links) == 2
    store.close()
    with pytest.raises(StorageError, match="closed"):
        first(path)


def test_settings_reach_kvikio(store: GdsStore, settings: dict[str, Any], path: str) -> None:
    assert settings == {"compat_mode": fake.CompatMode.ON, "num_threads": 3, "task_size": 4096}
    assert store.describe() == "gds: kvikio, compat (neither this nor that), 3 threads"
    assert pickle.loads(pickle.dumps(store)).describe() == store.describe()
    proven = GdsStore(path, require="gpudirect", ask=lambda _: DIRECT)
    assert settings["compat_mode"] is fake.CompatMode.OFF
    assert proven.describe() == "gds: kvikio, gpudirect, 16 threads"
    proven.drop_page_cache(path)
    assert settings["dropped"] == path


def test_what_is_required_and_is_not_is_an_error(settings: dict[str, Any], path: str) -> None:
    with pytest.raises(StorageError, match=r"the path is compat \(neither this nor that\)"):
        open_store(path, prefer="gds", require="gpudirect", ask=answers_compat)
    with pytest.raises(StorageError, match=r"GPU memory: unavailable \(no GPU\)"):
        open_store(path, prefer="gds", ask=lambda _: GdsPath("unavailable", "no GPU"))
    assert settings == {}


def test_options_of_open_store(settings: dict[str, Any], path: str) -> None:
    store = open_store(Path(path).as_uri(), prefer="gds", ask=answers_compat)
    assert isinstance(store, GdsStore)
    with pytest.raises(PipelineError, match="num_threads=0"):
        open_store(path, prefer="gds", num_threads=0)


def test_without_kvikio(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kvikio", None)
    with pytest.raises(MissingDependency, match=r"needs kvikio: pip install 'iopipe\[gds\]'"):
        open_store(path, prefer="gds")


@pytest.mark.gpu
def test_real_device_memory(path: str) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("kvikio")
    store = open_store(path, prefer="gds")
    assert isinstance(store, GdsStore)
    buffers = [
        torch.full((length,), 0xA5, dtype=torch.uint8, device="cuda") for _, length in RANGES
    ]
    torch.cuda.synchronize()
    counts = store.submit_to_device(
        [DeviceRead(path, offset, b) for (offset, _), b in zip(RANGES, buffers, strict=True)]
    ).wait()
    for (offset, length), buffer, count in zip(RANGES, buffers, counts, strict=True):
        expected = CONTENT[offset : offset + length]
        assert count == len(expected) and (buffer[:count].cpu().numpy() == expected).all()
    assert store.path.kind in ("gpudirect", "compat")
