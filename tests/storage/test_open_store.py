"""URLs find their store."""

from __future__ import annotations

from pathlib import Path

import pytest

from iopipe.errors import StorageError
from iopipe.storage import MemoryStore, PosixStore, open_store


@pytest.mark.parametrize("url", ["/data/a.tar", "a.tar", "file:///data/a.tar", "FILE:///a", "a:b"])
def test_files(url: str) -> None:
    store = open_store(url, num_threads=2)
    assert isinstance(store, PosixStore)
    assert "2 threads" in store.describe()
    assert store is not open_store(url)
    store.close()


def test_memory_is_one_store_for_the_process() -> None:
    store = open_store("memory://one/a")
    assert isinstance(store, MemoryStore)
    store.write("memory://one/a", b"abc")
    store.close()
    assert open_store("memory://two").size("memory://one/a") == 3
    store.delete("memory://one/a")


def test_memory_copies_what_is_written() -> None:
    store = MemoryStore()
    data = bytearray(b"abc")
    store.write("memory://a", data)
    data[0] = 0
    buffer = bytearray(3)
    store.read_into("memory://a", 0, memoryview(buffer))
    assert buffer == b"abc"


def test_unknown_scheme_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"no store for 's3' in 's3://b/k'.*file://.*memory://"):
        open_store("s3://b/k")
