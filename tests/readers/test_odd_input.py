"""What others leave lying about: names, sizes and files that no one would write on purpose."""

from __future__ import annotations

import io
import os
import pickle
import tarfile
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from iopipe.errors import DataError, PipelineError, StorageError
from iopipe.readers import (
    DatasetWriter,
    OpenOptions,
    WebDatasetSource,
    checkup,
    inspect_dataset,
    open_source,
    verify_dataset,
    write_arrow,
)
from iopipe.readers.index import load_index
from iopipe.readers.mds_values import value_decoder
from iopipe.readers.sidecar import SUFFIX, seal, unseal
from iopipe.readers.sink import HashedFile
from iopipe.readers.tar import header_blocks
from iopipe.readers.wds2idx import write_wds2idx
from iopipe.storage import MemoryStore, PosixStore


def _tar(*names: str) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as archive:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = 3
            archive.addfile(info, io.BytesIO(b"abc"))
    return raw.getvalue()


# ---- tar -----------------------------------------------------------------------------


def test_a_size_of_thousands_of_digits_is_damage(tmp_path: Path) -> None:
    """Python refuses to read such a number, in an exception of its own."""
    record = b" size=" + b"9" * 5000 + b"\n"
    record = b"%d%b" % (len(record) + 4, record)
    blocks = bytearray(header_blocks("x", len(record)))
    blocks[156] = ord("x")
    blocks[148:156] = b" " * 8
    blocks[148:156] = b"%06o\0 " % sum(blocks)
    path = tmp_path / "s.tar"
    path.write_bytes(blocks + record + bytes(-len(record) % 512) + _tar("a.jpg"))
    with pytest.raises(DataError, match="runs past the end"):
        open_source(path)
    memory = MemoryStore()
    memory.write("s.tar", path.read_bytes())
    assert len(WebDatasetSource(["s.tar"], memory, on_error="skip").faults) == 1


@pytest.mark.parametrize("name", ["a.j\udcffpg", "a.\udcff"])
def test_fields_that_are_no_text_are_readable(tmp_path: Path, name: str) -> None:
    path = tmp_path / "s.tar"
    path.write_bytes(_tar(name))
    for _ in range(2):  # built, then from its index
        source = open_source(path)
        (field,) = source.columns
        assert "?" in field and source.schema.names == [field]
        assert bytes(source.samples([0], PosixStore()).columns[field][0]) == b"abc"


def test_too_many_fields_name_the_shard(tmp_path: Path) -> None:
    path = tmp_path / "s.tar"
    path.write_bytes(_tar(*(f"{n}.f{n}" for n in range(200))))
    with pytest.raises(DataError, match=r"s\.tar.*200 different fields"):
        open_source(path)


# ---- sidecars ------------------------------------------------------------------------


def _resealed(path: Path, **changes: Any) -> None:
    table, header = unseal(path.read_bytes())
    path.write_bytes(seal(table, {**header, **changes}))


@pytest.mark.parametrize("format", ["webdataset", "tfrecord"])
def test_a_sidecar_of_somebody_else_is_built_again(tmp_path: Path, format: str) -> None:
    with DatasetWriter(tmp_path, format=format) as writer:
        writer.write({"__key__": "a", "txt": "abc"})
    (index,) = tmp_path.glob(f"*{SUFFIX}")
    good = index.read_bytes()
    for change in ({"faults": [["x", float("inf"), "y"]]}, {"num_bytes": float("nan")}):
        index.write_bytes(good)
        _resealed(index, **change)
        assert len(open_source(tmp_path)) == 1
    index.write_bytes(seal(pa.table({"offset": pa.nulls(1), "length": [{"a": 1}]}), {}))
    assert len(open_source(tmp_path)) == 1


def test_a_pipe_in_place_of_a_sidecar_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "s.tar"
    path.write_bytes(_tar("a.jpg"))
    os.mkfifo(f"{path}{SUFFIX}")
    os.utime(f"{path}{SUFFIX}", (2**31, 2**31))
    assert len(open_source(path)) == 1


def test_a_user_without_a_home_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "s.tar"
    path.write_bytes(_tar("a.jpg"))
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda uid: (_ for _ in ()).throw(KeyError(uid)))
    assert len(load_index(PosixStore(), str(path))) == 1


# ---- folders, options ----------------------------------------------------------------


def test_links_in_a_circle_are_passed_over(tmp_path: Path) -> None:
    root = tmp_path / "f" / "a"
    root.mkdir(parents=True)
    (root / "1.jpg").write_bytes(b"x")
    (root / "2.jpg").symlink_to(root / "3.jpg")
    (root / "3.jpg").symlink_to(root / "2.jpg")
    (root / "4.jpg").symlink_to(root / "none.jpg")
    assert open_source(tmp_path / "f").samples([0], PosixStore()).keys == ["a/1"]


def test_a_file_that_is_read_in_pieces_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one read of Linux ends at 2 GiB."""
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "1.txt").write_bytes(bytes(range(100)))
    source, read = open_source(tmp_path / "f"), os.read
    monkeypatch.setattr(os, "read", lambda descriptor, size: read(descriptor, min(size, 30)))
    assert bytes(source.samples([0], PosixStore()).columns["txt"][0]) == bytes(range(100))


def test_options_hold_what_is_not_given(tmp_path: Path) -> None:
    path = tmp_path / "s.tar"
    path.write_bytes(_tar("a.jpg", "a.cls", "b.jpg"))
    options = OpenOptions(columns=("jpg",), on_error="skip")
    assert open_source(path, options=options).columns == ("jpg",)
    assert open_source(path, options=options, columns=["cls"]).columns == ("cls",)
    assert len(open_source(path, options=OpenOptions(on_error="skip")).faults) == 1
    with pytest.raises(PipelineError, match="all fields"):
        open_source(path, options=options, verify="sample")


def test_names_with_brackets_are_names(tmp_path: Path) -> None:
    with DatasetWriter(tmp_path / "run[1]") as writer:
        writer.write({"__key__": "a", "txt": "abc"})
    for name in ("run[1]", "run[1]/shard-000000.tar", "run[[]1]/*.tar"):
        assert len(open_source(tmp_path / name)) == 1
    with pytest.raises(PipelineError, match="at most 10,000,000 shards"):
        open_source(tmp_path / "s-{0..99999999}.tar")


def test_an_end_that_no_token_can_be_is_refused(tmp_path: Path) -> None:
    np.arange(9, dtype=np.uint16).tofile(tmp_path / "x.bin")
    with pytest.raises(PipelineError, match="eos_token 70000 is no uint16"):
        open_source(tmp_path / "x.bin", options=OpenOptions(eos_token=70_000))


def test_a_shape_that_no_memory_holds_is_malformed() -> None:
    for shape in ("9" * 30, "65536,65536", "0", "1,-1", "9" * 5000):
        with pytest.raises(DataError, match="malformed"):
            value_decoder(f"ndarray:uint8:{shape}", "x.mds")


def test_names_with_spaces_make_no_dali_index(tmp_path: Path) -> None:
    (tmp_path / "s.tar").write_bytes(_tar("a b.jpg"))
    index = load_index(PosixStore(), str(tmp_path / "s.tar"))
    with pytest.raises(DataError, match="spaces"):
        write_wds2idx(index, tmp_path / "s.idx")


def test_arrow_sources_travel_to_another_process(tmp_path: Path) -> None:
    path = tmp_path / "x.arrow"
    write_arrow(path, [{"n": n, "bin": bytes([n]) * 50_000} for n in range(9)])
    memory = MemoryStore()
    memory.write("memory://x.arrow", path.read_bytes())
    for name, store, most_bytes in (
        (str(path), PosixStore(), 20_000),
        ("memory://x.arrow", memory, 600_000),
    ):
        source = open_source(name, store=store)
        sent = pickle.dumps(source)
        assert len(sent) < most_bytes  # a local file is mapped again
        again = pickle.loads(sent)
        assert again.samples([8], store).columns["n"].tolist() == [8]
        assert again.digest == source.digest


# ---- writing -------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["arrow", "parquet", "tfrecord", "webdataset"])
def test_a_refused_first_sample_settles_nothing(tmp_path: Path, format: str) -> None:
    with DatasetWriter(tmp_path / "d", format=format) as writer:
        for wrong in (object(), 1 + 2j):
            with pytest.raises(DataError, match="k0"):
                writer.write({"__key__": "k0", "odd": wrong})
        writer.write({"__key__": "k1", "txt": "abc"})
    assert open_source(tmp_path / "d").columns == ("txt",)


@pytest.mark.parametrize(
    "sample", [{"__key__": 5, "txt": "a"}, {"txt": "a"}, {"__key__": "k", "txt": "\udcff"}]
)
def test_what_is_no_text_is_refused_by_name(tmp_path: Path, sample: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"give text|no text of UTF-8"):
        with DatasetWriter(tmp_path / "d") as writer:
            writer.write(sample)


def test_a_discarded_file_takes_nothing_any_more(tmp_path: Path) -> None:
    """pyarrow's Parquet writer ends its file when it is collected: by then another file may
    have the descriptor."""
    file = HashedFile(tmp_path / "discarded")
    writer = pq.ParquetWriter(file, pa.schema({"x": pa.binary()}), compression="none")
    file.discard()
    other = os.open(tmp_path / "other", os.O_WRONLY | os.O_CREAT)
    assert other == file._descriptor
    writer.write_table(pa.table({"x": [os.urandom(3 << 20)]}))
    writer.close()
    os.close(other)
    assert (tmp_path / "other").read_bytes() == b""


# ---- verify and inspect --------------------------------------------------------------


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    with DatasetWriter(tmp_path / "d", format="tfrecord", max_samples=2) as writer:
        for number in range(40):
            writer.write({"__key__": f"k{number}", "txt": f"text {number}"})
    return tmp_path / "d"


def test_a_missing_shard_is_listed_beside_other_damage(dataset: Path) -> None:
    (dataset / "shard-000003.tfrecord").unlink()
    path = dataset / "shard-000001.tfrecord"
    content = bytearray(path.read_bytes())
    content[-8] ^= 1
    path.write_bytes(content)
    found = verify_dataset(dataset)
    assert [Path(str(damage.shard)).name for damage in found.damage] == [
        "shard-000001.tfrecord",
        "shard-000003.tfrecord",
    ]
    assert "missing" in found.damage[1].reason and found.num_samples == 38


def test_an_error_ends_verify_without_reading_what_is_left(
    dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Ctrl-C does: shards that wait for a thread are not begun."""
    is_over, begun = threading.Event(), []
    verify_shard = checkup._verify_shard

    def slow(shard: str, entry: Any, store: Any) -> Any:
        begun.append(shard)
        if shard.endswith("000000.tfrecord"):
            raise StorageError("no answer")
        assert is_over.wait(60)
        return verify_shard(shard, entry, store)

    class Pool(checkup.ThreadPoolExecutor):  # type: ignore[name-defined,misc]
        def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
            super().shutdown(wait=False, cancel_futures=cancel_futures)
            is_over.set()
            super().shutdown()

    monkeypatch.setattr(checkup, "_verify_shard", slow)
    monkeypatch.setattr(checkup, "ThreadPoolExecutor", Pool)
    monkeypatch.setattr(checkup, "_THREADS", 2)
    with pytest.raises(StorageError, match="no answer"):
        verify_dataset(dataset)
    assert len(begun) <= 3


def test_inspect_shows_the_first_samples_that_can_be_read(dataset: Path) -> None:
    path = dataset / "shard-000000.tfrecord"
    content = bytearray(path.read_bytes())
    content[-8] ^= 1  # of the second record
    path.write_bytes(content)
    found = inspect_dataset(dataset, num_samples=2)
    assert [sample["txt"] for sample in found.samples] == [b"text 0", b"text 2"]
    assert [damage.key for damage in found.damage] == ["1"]
