"""Objects through fsspec, where its file systems do not do what they are asked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from iopipe.errors import PipelineError, StorageError
from iopipe.protocols import ReadRequest
from iopipe.storage.remote import RemoteStore


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RemoteStore]:
    (tmp_path / "a.bin").write_bytes(bytes(range(100)))
    store = RemoteStore(f"local://{tmp_path}")
    yield store
    store.close()


@pytest.mark.parametrize(("offset", "length"), [(50, 100), (50, 10), (99, 200), (0, 30)])
def test_a_server_that_ignores_ranges_gives_no_wrong_bytes(
    store: RemoteStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    offset: int,
    length: int,
) -> None:
    """It answers with the whole object, as web servers may (RFC 9110, section 14.2)."""

    def whole(path: str, **_: Any) -> bytes:
        return (tmp_path / "a.bin").read_bytes()

    monkeypatch.setattr(store._files, "cat_file", whole)
    request = ReadRequest(f"file://{tmp_path}/a.bin", offset, memoryview(bytearray(length)))
    with pytest.raises(StorageError, match=r"a\.bin.*100 came, so its server does not serve rang"):
        store.submit([request]).wait()
    assert not any(request.buffer)


def test_illegal_options(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="part_bytes=100: give a multiple of 4096"):
        RemoteStore(f"local://{tmp_path}", part_bytes=100)
    with pytest.raises(PipelineError, match="num_threads=0 must be 1 or more"):
        RemoteStore(f"local://{tmp_path}", num_threads=0)
