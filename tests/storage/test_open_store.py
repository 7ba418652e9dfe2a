"""URLs find their store."""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path

import pytest

from iopipe.errors import MissingDependency, PipelineError, StorageError
from iopipe.readers import DatasetWriter, open_source
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


def test_other_schemes_are_those_of_fsspec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(f"local://{tmp_path}/x", num_threads=3)
    assert store.describe() == "remote: local through fsspec, 3 threads"
    store.close()
    with pytest.raises(StorageError, match="no store for 'no-such://b/k'"):
        open_store("no-such://b/k")
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(MissingDependency, match=r"no file system for 's3://b/k'.*s3fs"):
        open_store("s3://b/k", prefer="fsspec")


@pytest.mark.parametrize(
    "url",
    [
        *("s3://b/k", "gs://b/k", "az://b/k", "http://h/k", "https://h/k"),
        "abfss://container@account.dfs.core.windows.net/k",
    ],
)
def test_objects_go_through_obstore_or_nowhere(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"account_name": "a"} if url.startswith("az") else {}
    with closing(open_store(url, options=options)) as store:
        assert store.describe().startswith("objects: ") and "through obstore" in store.describe()
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(MissingDependency, match=r"pip install 'iopipe\[objects\]'"):
        open_store(url)


def test_preferences_that_do_not_fit() -> None:
    with pytest.raises(StorageError, match="prefer='posix' is for local files"):
        open_store("s3://b/k", prefer="posix")
    with pytest.raises(PipelineError, match="give prefer='gds' with it"):
        open_store("s3://b/k", require="gpudirect")
    with pytest.raises(PipelineError, match="belong together"):
        open_store("s3://b/k", cache="/tmp/c")
    with pytest.raises(PipelineError, match="is here already"):
        open_store("/data/a", cache="/tmp/c", max_cache_bytes=1 << 30)


def test_a_dataset_is_read_through_fsspec(tmp_path: Path) -> None:
    with DatasetWriter(tmp_path / "d", max_samples=3) as writer:
        for number in range(8):
            writer.write({"__key__": f"k{number}", "txt": f"text {number}" * 99})
    url = f"local://{tmp_path}/d"
    for name in (
        f"{url}/manifest.json",
        f"{url}/shard-{{000000..000002}}.tar",
        f"{url}/*.tar",
        f"{url}/",
    ):
        source = open_source(name)
        assert len(source) == 8
        with closing(open_store(url)) as store:
            found = source.samples([7, 0, 3], store).columns["txt"]
            assert [bytes(text) for text in found] == [f"text {n}".encode() * 99 for n in (7, 0, 3)]
