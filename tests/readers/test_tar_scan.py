"""The scan of many headers at a time against the walk, and grouping against its twin."""

from __future__ import annotations

import io
import random
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iopipe.errors import DataError
from iopipe.protocols import Store
from iopipe.readers import tar_scan
from iopipe.readers.grouping import group
from iopipe.readers.shard_index import IndexBuilder, ShardIndex, split_name
from iopipe.readers.tar import Member, TarDamage, walk
from iopipe.readers.tar_scan import scan
from iopipe.storage import MemoryStore, PosixStore

_NAMES = st.sampled_from(
    [
        *(f"{number:04d}.{field}" for number in range(6) for field in ("jpg", "cls", "seg.PNG")),
        "a/b.c/d.jpg",
        "a/0.jpg",
        ".hidden",
        "no_extension",
        "__meta__/x.json",
        "__x.jpg",
        "../up.jpg",
        "/abs.jpg",
        "a..b.jpg",
        "x" * 150 + ".jpg",
        "ümlaut.jpg",
        "bad\udcff.jpg",
    ]
)
_LENGTHS = st.sampled_from([0, 1, 511, 512, 513, 5000, 40_000])
_FORMATS = st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
_KINDS = st.sampled_from([tarfile.REGTYPE] * 8 + [tarfile.AREGTYPE, tarfile.DIRTYPE])
_TIMES = st.sampled_from([0, 1.5])


@pytest.fixture
def store() -> Iterator[Store]:
    posix = PosixStore()
    yield posix
    posix.close()


def _archive(members: list[tuple[str, int, bytes, float]], format: int) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=format) as archive:
        for name, length, kind, mtime in members:
            info = tarfile.TarInfo(name)
            info.type, info.mtime = kind, mtime  # a broken time makes a pax header
            info.size = length if kind != tarfile.DIRTYPE else 0
            archive.addfile(info, io.BytesIO(bytes(length)))
    return raw.getvalue()


def _walked(store: Store, path: str) -> tuple[list[Member], TarDamage | None]:
    items = list(walk(store, path))
    damage = items.pop() if items and isinstance(items[-1], TarDamage) else None
    return [item for item in items if isinstance(item, Member)], damage


def _grouped(members: list[Member]) -> ShardIndex:
    builder = IndexBuilder()
    for member in members:
        split = split_name(member.name)
        if split is not None:
            builder.add(*split, member)
    return builder.build()


def _same(ours: ShardIndex, theirs: ShardIndex) -> bool:
    return (
        ours.columns == theirs.columns
        and ours.keys.equals(theirs.keys)
        and ours.offsets.tolist() == theirs.offsets.tolist()
        and ours.lengths.tolist() == theirs.lengths.tolist()
        and ours.faults == theirs.faults
    )


@settings(max_examples=150, deadline=None)
@given(
    members=st.lists(st.tuples(_NAMES, _LENGTHS, _KINDS, _TIMES), max_size=12),
    format=_FORMATS,
    damage=st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), max_size=2),
    cut=st.none() | st.integers(0, 1 << 20),
)
def test_a_scan_finds_what_the_walk_finds(
    tmp_path_factory: pytest.TempPathFactory,
    members: list[tuple[str, int, bytes, float]],
    format: int,
    damage: list[tuple[int, int]],
    cut: int | None,
) -> None:
    try:
        content = bytearray(_archive(members, format))
    except ValueError:  # a name too long for this dialect
        return
    for place, value in damage:
        content[place % len(content)] = value
    del content[None if cut is None else cut % len(content) :]
    path = str(tmp_path_factory.getbasetemp() / "fuzzed.tar")
    Path(path).write_bytes(content)
    posix, memory = PosixStore(), MemoryStore()
    memory.write("memory://x", bytes(content))
    expected, expected_damage = _walked(posix, path)
    for found in (scan(posix, path), scan(memory, "memory://x")):
        assert (list(found), found.damage) == (expected, expected_damage)
        index = group(found)
        assert index is None or _same(index, _grouped(expected))
    posix.close()


def test_ordinary_archives_are_grouped_at_a_glance(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tar_scan, "_RUN_HEADERS", 100)
    generator = random.Random(1)
    for number, (folder, mtime) in enumerate([("", 0), ("train/part.1/", 0), ("", 1.5)]):
        members = [
            (f"{folder}{row:06d}.{field}", generator.choice([1, 600, 9000]), tarfile.REGTYPE, mtime)
            for row in range(333)
            for field in ("jpg", "cls")
        ]
        path = tmp_path / f"{number}.tar"
        path.write_bytes(_archive(members, tarfile.PAX_FORMAT))
        found = scan(store, str(path))
        assert all(isinstance(piece, pa.Array) for piece in found.names)
        index = group(found)
        assert index is not None
        assert _same(index, _grouped(_walked(store, str(path))[0]))


def test_samples_of_ever_new_fields_do_not_fill_the_memory() -> None:
    builder = IndexBuilder()
    for row in range(20_000):
        builder.add(f"{row}", f"field{row}", Member(f"{row}.field{row}", row, 1))
    with pytest.raises(DataError, match="20000 different fields"):
        builder.build()
