"""The index of WebDataset shards: kept, rebuilt, and as DALI has it."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes.tars import some_members, tar_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from iopipe.errors import DataError
from iopipe.protocols import Store
from iopipe.readers import WebDatasetSource
from iopipe.readers.index import build_index
from iopipe.readers.sidecar import SUFFIX
from iopipe.readers.wds2idx import read_wds2idx, write_wds2idx
from iopipe.storage import MemoryStore, PosixStore


@pytest.fixture
def store() -> Iterator[Store]:
    posix = PosixStore()
    yield posix
    posix.close()


def _written(folder: Path, members: list[tuple[str, bytes]]) -> str:
    shard = folder / "shard.tar"
    shard.write_bytes(tar_of(members))
    return str(shard)


def test_the_index_is_stored_beside_the_shard_and_rebuilt_when_the_shard_changes(
    tmp_path: Path, store: Store
) -> None:
    shard = _written(tmp_path, some_members(4))
    assert len(WebDatasetSource([shard], store)) == 4
    assert os.path.exists(shard + SUFFIX)
    _written(tmp_path, some_members(6))
    assert len(WebDatasetSource([shard], store)) == 6
    assert not list(tmp_path.glob("*.tmp"))


def test_the_index_of_a_read_only_folder_goes_to_the_cache(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "data").mkdir()
    shard = _written(tmp_path / "data", some_members(4))
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
    members = some_members(4)
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
    content = tar_of(
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
