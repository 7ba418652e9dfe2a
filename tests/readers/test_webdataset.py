"""WebDataset shards: the same samples as other programs see, whatever the tar dialect."""

from __future__ import annotations

import io
import pickle
import random
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import webdataset
from fakes.tars import all_rows, read_by_webdataset, rows_of, some_members, source_of, tar_of

from iopipe.errors import PipelineError
from iopipe.protocols import Store
from iopipe.readers import WebDatasetSource
from iopipe.storage import PosixStore


@pytest.fixture
def store() -> Iterator[Store]:
    posix = PosixStore()
    yield posix
    posix.close()


def test_the_samples_of_webdatasets_writer_are_those_of_its_reader(
    tmp_path: Path, store: Store
) -> None:
    generator = random.Random(4)
    with webdataset.ShardWriter(str(tmp_path / "s-%03d.tar"), maxcount=7, verbose=0) as writer:
        for number in range(20):
            content = generator.randbytes(generator.randint(1, 200_000))
            writer.write({"__key__": f"k{number}", "jpg": content, "meta.json": {"n": number}})
    shards = sorted(str(path) for path in tmp_path.glob("*.tar"))
    theirs = read_by_webdataset(shards, ("__key__", "jpg", "meta.json"))
    source = WebDatasetSource(shards, store)
    assert source.columns == ("jpg", "meta.json")
    assert all_rows(source, store) == theirs
    picked = [19, 3, 3, 11]
    assert rows_of(source.samples(picked, store)) == [theirs[number] for number in picked]
    assert [source.locate(number).key for number in picked] == ["k19", "k3", "k3", "k11"]


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_dialect_of_tar_is_read(format: int) -> None:
    long = "d" * 90 + "/" + "e" * 60 if format == tarfile.USTAR_FORMAT else "d" * 300
    members = [("short.bin", b"1"), (f"{long}/x.bin", b"22"), ("dir/Last.BIN", b"333")]
    if format != tarfile.USTAR_FORMAT:
        members.append(("größe/日本.bin", b"4444"))
    source, memory = source_of(tar_of(members, format))
    assert all_rows(source, memory) == [
        {"__key__": name.rsplit(".", 1)[0], "bin": content} for name, content in members
    ]


def test_sizes_in_base_256_are_read() -> None:
    content = bytearray(tar_of([("a.bin", b"12345")], tarfile.USTAR_FORMAT))
    content[124:136] = b"\x80" + (5).to_bytes(11, "big")
    content[148:156] = b" " * 8
    content[148:156] = b"%06o\0 " % sum(content[:512])
    source, memory = source_of(bytes(content))
    assert all_rows(source, memory) == [{"__key__": "a", "bin": b"12345"}]


def test_keys_and_fields_follow_the_convention() -> None:
    names = ["x/1.a.jpg", "x/1.CLS", "x.y/2.a.jpg", "x.y/2.cls", ".hidden", "nodot", "__m__/1.cls"]
    source, memory = source_of(tar_of([(name, name.encode()) for name in names]))
    theirs = [webdataset.tariterators.base_plus_ext(name) for name in names[:4]]
    assert {(s["__key__"], f) for s in all_rows(source, memory) for f in ("a.jpg", "cls")} == {
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
    source, memory = source_of(raw.getvalue())
    assert all_rows(source, memory) == [{"__key__": "real", "jpg": b"abc"}]


def test_only_the_chosen_fields_are_read() -> None:
    members = [("1.jpg", b"j" * 300_000), ("1.raw", b"r" * 300_000), ("1.cls", b"7")]
    source, memory = source_of(tar_of(members), columns=["cls"])
    assert all_rows(source, memory) == [{"__key__": "1", "cls": b"7"}]
    assert sum(part.length for part in source.ranges([0])) == 1
    apart, memory = source_of(tar_of(members), columns=["cls", "jpg"])
    assert all_rows(apart, memory) == [{"__key__": "1", "cls": b"7", "jpg": b"j" * 300_000}]
    assert sum(part.length for part in apart.ranges([0])) == 300_001
    with pytest.raises(PipelineError, match=r"\['png'\].*jpg, raw, cls"):
        source_of(tar_of(members), columns=["png"])


def test_ranges_hold_the_bytes_of_the_samples() -> None:
    content = tar_of(some_members(9))
    source, memory = source_of(content)
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
    source, memory = source_of(tar_of(some_members(5)))
    assert all_rows(pickle.loads(pickle.dumps(source)), memory) == all_rows(source, memory)
