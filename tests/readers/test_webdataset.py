"""WebDataset shards: the same samples as other programs see, whatever the tar dialect."""

from __future__ import annotations

import gc
import io
import json
import os
import pickle
import random
import resource
import signal
import tarfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from iopipe.errors import DataError, PipelineError, StorageError
from iopipe.protocols import Samples, Store
from iopipe.readers import DatasetWriter, WebDatasetSource
from iopipe.readers.index import build_index
from iopipe.readers.sidecar import SUFFIX
from iopipe.readers.wds2idx import read_wds2idx, write_wds2idx
from iopipe.storage import MemoryStore, PosixStore


@pytest.fixture
def store() -> Iterator[Store]:
    posix = PosixStore()
    yield posix
    posix.close()


def _tar(members: list[tuple[str, bytes]], format: int = tarfile.PAX_FORMAT) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=format) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return raw.getvalue()


def _members(num_samples: int, seed: int = 0) -> list[tuple[str, bytes]]:
    generator = random.Random(seed)
    members = []
    for number in range(num_samples):
        members.append((f"a/{number:05d}.jpg", generator.randbytes(generator.randint(1, 3000))))
        members.append((f"a/{number:05d}.cls", str(number).encode()))
    return members


def _source(content: bytes, **options: Any) -> tuple[WebDatasetSource, MemoryStore]:
    memory = MemoryStore()
    memory.write("shard.tar", content)
    return WebDatasetSource(["shard.tar"], memory, **options), memory


def _rows(samples: Samples) -> list[dict[str, Any]]:
    return [samples.row(row) for row in range(len(samples))]


def _all(source: WebDatasetSource, store: Store) -> list[dict[str, Any]]:
    return _rows(source.samples(range(len(source)), store))


def _read_by_webdataset(shards: list[str], names: tuple[str, ...]) -> list[dict[str, Any]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # it leaves its files to the collector
        samples = [
            {name: sample[name] for name in names}
            for sample in webdataset.WebDataset(shards, shardshuffle=False)
        ]
        gc.collect()
    return samples


# ---- reading what others wrote -------------------------------------------------------


def test_the_samples_of_webdatasets_writer_are_those_of_its_reader(
    tmp_path: Path, store: Store
) -> None:
    generator = random.Random(4)
    with webdataset.ShardWriter(str(tmp_path / "s-%03d.tar"), maxcount=7, verbose=0) as writer:
        for number in range(20):
            content = generator.randbytes(generator.randint(1, 200_000))
            writer.write({"__key__": f"k{number}", "jpg": content, "meta.json": {"n": number}})
    shards = sorted(str(path) for path in tmp_path.glob("*.tar"))
    theirs = _read_by_webdataset(shards, ("__key__", "jpg", "meta.json"))
    source = WebDatasetSource(shards, store)
    assert source.columns == ("jpg", "meta.json")
    assert _all(source, store) == theirs
    picked = [19, 3, 3, 11]
    assert _rows(source.samples(picked, store)) == [theirs[number] for number in picked]
    assert [source.locate(number).key for number in picked] == ["k19", "k3", "k3", "k11"]


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_dialect_of_tar_is_read(format: int) -> None:
    long = "d" * 90 + "/" + "e" * 60 if format == tarfile.USTAR_FORMAT else "d" * 300
    members = [("short.bin", b"1"), (f"{long}/x.bin", b"22"), ("dir/Last.BIN", b"333")]
    if format != tarfile.USTAR_FORMAT:
        members.append(("größe/日本.bin", b"4444"))
    source, memory = _source(_tar(members, format))
    assert _all(source, memory) == [
        {"__key__": name.rsplit(".", 1)[0], "bin": content} for name, content in members
    ]


def test_sizes_in_base_256_are_read() -> None:
    content = bytearray(_tar([("a.bin", b"12345")], tarfile.USTAR_FORMAT))
    content[124:136] = b"\x80" + (5).to_bytes(11, "big")
    content[148:156] = b" " * 8
    content[148:156] = b"%06o\0 " % sum(content[:512])
    source, memory = _source(bytes(content))
    assert _all(source, memory) == [{"__key__": "a", "bin": b"12345"}]


def test_keys_and_fields_follow_the_convention() -> None:
    names = ["x/1.a.jpg", "x/1.CLS", "x.y/2.a.jpg", "x.y/2.cls", ".hidden", "nodot", "__m__/1.cls"]
    source, memory = _source(_tar([(name, name.encode()) for name in names]))
    theirs = [webdataset.tariterators.base_plus_ext(name) for name in names[:4]]
    assert {(s["__key__"], f) for s in _all(source, memory) for f in ("a.jpg", "cls")} == {
        (key, field.lower()) for key, field in theirs
    }
    assert len(source) == 2


def test_folders_and_links_are_passed_over() -> None:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as archive:
        for kind, name in [(tarfile.DIRTYPE, "d.d"), (tarfile.SYMTYPE, "l.jpg")]:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "elsewhere"
            archive.addfile(info)
        info = tarfile.TarInfo("real.jpg")
        info.size = 3
        archive.addfile(info, io.BytesIO(b"abc"))
    source, memory = _source(raw.getvalue())
    assert _all(source, memory) == [{"__key__": "real", "jpg": b"abc"}]


def test_only_the_chosen_fields_are_read() -> None:
    members = [("1.jpg", b"j" * 300_000), ("1.raw", b"r" * 300_000), ("1.cls", b"7")]
    source, memory = _source(_tar(members), columns=["cls"])
    assert _all(source, memory) == [{"__key__": "1", "cls": b"7"}]
    assert sum(part.length for part in source.ranges([0])) == 1
    apart, memory = _source(_tar(members), columns=["cls", "jpg"])
    assert _all(apart, memory) == [{"__key__": "1", "cls": b"7", "jpg": b"j" * 300_000}]
    assert sum(part.length for part in apart.ranges([0])) == 300_001
    with pytest.raises(PipelineError, match=r"\['png'\].*jpg, raw, cls"):
        _source(_tar(members), columns=["png"])


def test_ranges_hold_the_bytes_of_the_samples() -> None:
    content = _tar(_members(9))
    source, memory = _source(content)
    for number in range(9):
        (part,) = source.ranges([number])
        whole = content[part.offset : part.offset + part.length]
        sample = source.samples([number], memory).row(0)
        assert whole.startswith(sample["jpg"])
        assert whole.endswith(sample["cls"])
    together = source.ranges([8, 0, 3, 1, 2, 2])
    assert sum(part.length for part in together) < len(content)
    for number in range(4):
        (part,) = source.ranges([number])
        assert any(
            span.offset <= part.offset and part.offset + part.length <= span.offset + span.length
            for span in together
        )


def test_a_source_travels_to_another_process() -> None:
    source, memory = _source(_tar(_members(5)))
    assert _all(pickle.loads(pickle.dumps(source)), memory) == _all(source, memory)


# ---- writing -------------------------------------------------------------------------


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
    assert _read_by_webdataset(shards, ("__key__", "jpg", "cls")) == expected
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
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limit[1]))  # as a full disk: write fails
    try:
        with (
            pytest.raises(StorageError, match=r"shard-000000\.tar.*file too large"),
            DatasetWriter(tmp_path) as writer,
        ):
            writer.write({"__key__": "1", "jpg": b"x" * 5_000_000})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
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


# ---- damage --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("members", "key", "reason"),
    [
        ([("1.jpg", b"a"), ("1.cls", b"1"), ("2.jpg", b"b")], "2", "no member 'cls'"),
        ([("1.jpg", b"a"), ("2.jpg", b"b"), ("1.jpg", b"c")], "1", "same key"),
        ([("1.jpg", b"a"), ("1.jpg", b"c"), ("2.jpg", b"b")], "1", "two members 'jpg'"),
        ([("1.jpg", b"a"), ("2.jpg", b""), ("3.jpg", b"b")], "2", "no bytes"),
    ],
)
def test_damaged_samples_are_named_or_left_out(
    members: list[tuple[str, bytes]], key: str, reason: str
) -> None:
    with pytest.raises(DataError, match=rf"shard 'shard.tar', offset \d+, key '{key}'.*{reason}"):
        _source(_tar(members))
    source, memory = _source(_tar(members), on_error="skip")
    assert [fault.key for fault in source.faults] == [key]
    good = {name.split(".")[0] for name, _ in members} - {key}
    kept = [sample["__key__"] for sample in _all(source, memory)]
    assert set(kept) >= good
    assert len(kept) == len(set(kept))


def test_a_shard_cut_anywhere_gives_right_samples_and_a_fault() -> None:
    members = _members(6, seed=2)
    content = _tar(members, tarfile.USTAR_FORMAT)
    whole = {name: data for name, data in members}
    end_of_data = sum(512 + -(-len(data) // 512) * 512 for _, data in members)
    for cut in [*range(0, end_of_data, 512), *range(100, end_of_data, 1777)]:
        source, memory = _source(content[:cut], on_error="skip")
        assert source.faults, cut
        for sample in _all(source, memory):
            assert {f"{sample['__key__']}.{n}": sample[n] for n in source.columns}.items() <= (
                whole.items()
            )
        with pytest.raises(DataError):
            _source(content[:cut])


def test_a_shard_that_shrinks_after_it_was_indexed_is_an_error_that_names_the_row() -> None:
    content = _tar(_members(6))
    source, memory = _source(content)
    memory.write("shard.tar", content[:6000])
    with pytest.raises(DataError, match="became shorter") as caught:
        source.samples(range(6), memory)
    assert caught.value.row is not None
    assert caught.value.shard == "shard.tar"


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.integers(0, 20_000), st.integers(0, 255)), max_size=6))
def test_flipped_bytes_give_samples_of_bounded_size_or_a_typed_error(
    flips: list[tuple[int, int]],
) -> None:
    content = bytearray(_tar(_members(5), tarfile.PAX_FORMAT))
    for place, value in flips:
        content[place % len(content)] = value
    memory = MemoryStore()
    memory.write("shard.tar", bytes(content))
    index = build_index(memory, "shard.tar")
    present = index.lengths > 0
    assert (index.offsets[present] + index.lengths[present] <= len(content)).all()
    try:
        source = WebDatasetSource(["shard.tar"], memory, on_error="skip")
        _all(source, memory)
    except DataError:
        return


# ---- the index -----------------------------------------------------------------------


def _written(folder: Path, members: list[tuple[str, bytes]]) -> str:
    shard = folder / "shard.tar"
    shard.write_bytes(_tar(members))
    return str(shard)


def test_the_index_is_stored_beside_the_shard_and_rebuilt_when_the_shard_changes(
    tmp_path: Path, store: Store
) -> None:
    shard = _written(tmp_path, _members(4))
    assert len(WebDatasetSource([shard], store)) == 4
    assert os.path.exists(shard + SUFFIX)
    _written(tmp_path, _members(6))
    assert len(WebDatasetSource([shard], store)) == 6
    assert not list(tmp_path.glob("*.tmp"))


def test_the_index_of_a_read_only_folder_goes_to_the_cache(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "data").mkdir()
    shard = _written(tmp_path / "data", _members(4))
    real_open = open

    def read_only(path: Any, mode: str = "r", *rest: Any, **named: Any) -> Any:
        if "w" in mode and str(path).startswith(str(tmp_path / "data")):
            raise PermissionError(13, "Permission denied", str(path))
        return real_open(path, mode, *rest, **named)

    monkeypatch.setattr("builtins.open", read_only)
    first = WebDatasetSource([shard], store)
    assert not os.path.exists(shard + SUFFIX)
    (stored,) = (tmp_path / "cache" / "iopipe" / "index").iterdir()
    before = stored.stat().st_mtime_ns
    assert WebDatasetSource([shard], store).digest == first.digest
    assert stored.stat().st_mtime_ns == before


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=8))
def test_a_damaged_index_is_rebuilt(tmp_path: Path, flips: list[tuple[int, int]]) -> None:
    members = _members(4)
    shard, posix = _written(tmp_path, members), PosixStore()
    expected = WebDatasetSource([shard], posix)
    content = bytearray(Path(shard + SUFFIX).read_bytes())
    for place, value in flips:
        content[place % len(content)] = value
    Path(shard + SUFFIX).write_bytes(content)
    source = WebDatasetSource([shard], posix, on_error="skip")
    size = os.path.getsize(shard)
    assert all(part.offset + part.length <= size for part in source.ranges(range(len(source))))
    assert len(source) <= len(expected)
    posix.close()


def test_dalis_index_has_its_published_form_and_comes_back(tmp_path: Path) -> None:
    content = _tar(
        [("a/1.jpg", b"x" * 700), ("a/1.cls", b"5"), ("b.2.jpg", b"y"), ("b.2.cls", b"6")]
    )
    memory = MemoryStore()
    memory.write("s.tar", content)
    index = build_index(memory, "s.tar")
    write_wds2idx(index, tmp_path / "s.idx")
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        places = {info.name: (info.offset_data, info.size) for info in archive}
    lines = (tmp_path / "s.idx").read_text().splitlines()
    assert lines[0] == "v1.2 2"
    expected = "jpg {} {} a/1.jpg cls {} {} a/1.cls"
    assert lines[1] == expected.format(*places["a/1.jpg"], *places["a/1.cls"])
    back = read_wds2idx(tmp_path / "s.idx")
    assert back.keys.to_pylist() == index.keys.to_pylist()
    assert np.array_equal(back.offsets, index.offsets)
    assert np.array_equal(back.lengths, index.lengths)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "v9 1\na 1 2 b\n",
        "v1.2 3\njpg 1 2 a.jpg\n",
        "v1.2 1\njpg 1\n",
        "v1.2 1\njpg x 2 a.jpg\n",
    ],
)
def test_a_malformed_dali_index_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "s.idx").write_text(text)
    with pytest.raises(DataError, match="wds2idx"):
        read_wds2idx(tmp_path / "s.idx")
