"""Arrow files: the same values as pyarrow gives, without copies."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from iopipe.errors import DataError, PipelineError
from iopipe.protocols import Store
from iopipe.readers import ArrowSource, write_arrow
from iopipe.storage import MemoryStore, PosixStore


@pytest.fixture
def store() -> Iterator[Store]:
    posix = PosixStore()
    yield posix
    posix.close()


def _table(num_rows: int, first: int = 0) -> pa.Table:
    numbers = range(first, first + num_rows)
    return pa.table(
        {
            "__key__": [f"k{n}" for n in numbers],
            "jpg": pa.array([bytes([n % 256]) * (n % 50 + 1) for n in numbers], pa.large_binary()),
            "small": pa.array([b"s%d" % n for n in numbers], pa.binary()),
            "x": pa.array([n * 0.5 for n in numbers], pa.float32()),
            "box": pa.array([[n, n + 1, n + 2] for n in numbers], pa.list_(pa.int16(), 3)),
            "text": [f"text {n}" for n in numbers],
            "nested": [{"a": [n, n]} for n in numbers],
            "flag": [n % 2 == 0 for n in numbers],
        }
    )


def _write(path: Path, table: pa.Table, **options: Any) -> str:
    with pa.ipc.new_file(str(path), table.schema, options=pa.ipc.IpcWriteOptions(**options)) as w:
        w.write_table(table, max_chunksize=7)
    return str(path)


def _same(value: Any, expected: Any) -> bool:
    if isinstance(value, np.ndarray):
        return bool(value.tolist() == expected)
    return bool(value == expected)


@pytest.mark.parametrize("compression", [None, "lz4", "zstd"])
@pytest.mark.parametrize("kind", ["posix", "memory"])
def test_rows_equal_those_of_pyarrow(tmp_path: Path, kind: str, compression: str | None) -> None:
    tables = [_table(20), _table(15, first=20)]
    paths = [
        _write(tmp_path / f"{n}.arrow", table, compression=compression)
        for n, table in enumerate(tables)
    ]
    store: Store = PosixStore()
    if kind == "memory":
        store = MemoryStore()
        for path in paths:
            store.write(path, Path(path).read_bytes())
    source = ArrowSource(paths, store)
    expected = pa.concat_tables(tables).to_pylist()
    assert len(source) == 35
    picked = [34, 0, 6, 7, 21, 21, 13]
    samples = source.samples(picked, store)
    for row, number in enumerate(picked):
        got = samples.row(row)
        assert got.keys() == expected[number].keys()
        assert all(_same(got[name], expected[number][name]) for name in got)
    assert source.locate(21).key == "k21"
    store.close()


def test_bytes_are_views_of_the_file_and_ranges_name_their_place(
    tmp_path: Path, store: Store
) -> None:
    path = _write(tmp_path / "a.arrow", _table(20))
    content = Path(path).read_bytes()
    source = ArrowSource([path], store, columns=["jpg", "x", "box"])
    samples = source.samples([9, 3], store)
    for row, number in enumerate([9, 3]):
        jpg, x, box = source.ranges([number])
        assert content[jpg.offset : jpg.offset + jpg.length] == samples.columns["jpg"][row]
        assert np.frombuffer(content, "<f4", 1, x.offset)[0] == number * 0.5
        assert np.frombuffer(content, "<i2", 3, box.offset).tolist() == [
            number + n for n in range(3)
        ]
    view = samples.columns["jpg"][0]
    assert isinstance(view, memoryview)
    with open(path, "r+b") as file:  # what is written to the file shows in a view of it
        file.seek(source.ranges([9])[0].offset)
        file.write(b"!")
    assert view[0] == ord("!")


def test_no_descriptor_is_kept(tmp_path: Path, store: Store) -> None:
    path = _write(tmp_path / "a.arrow", _table(20))
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    source = ArrowSource([path], store)
    assert len(os.listdir("/proc/self/fd")) == before
    assert source.samples([3], store).keys == ["k3"]


def test_a_null_is_damage_with_its_row(tmp_path: Path, store: Store) -> None:
    path = _write(tmp_path / "a.arrow", pa.table({"x": [1, None, 3], "y": [b"a", b"b", None]}))
    source = ArrowSource([path], store)
    with pytest.raises(DataError, match="'x' is null") as caught:
        source.samples([0, 1], store)
    assert caught.value.row == 1
    assert ArrowSource([path], store, columns=["x"]).samples([0, 2], store).row(1)["x"] == 3


@pytest.mark.parametrize("damage", ["truncated", "garbage", "empty"])
def test_a_damaged_file_is_named(tmp_path: Path, store: Store, damage: str) -> None:
    path = Path(_write(tmp_path / "a.arrow", _table(50)))
    content = path.read_bytes()
    path.write_bytes({"truncated": content[:-200], "garbage": b"ARROW1" * 90, "empty": b""}[damage])
    with pytest.raises(DataError, match=r"a\.arrow"):
        ArrowSource([str(path)], store)


def test_shards_of_different_schemas_are_refused(tmp_path: Path, store: Store) -> None:
    paths = [
        _write(tmp_path / "a.arrow", pa.table({"x": [1]})),
        _write(tmp_path / "b.arrow", pa.table({"y": [1]})),
    ]
    with pytest.raises(DataError, match=r"b\.arrow.*schema differs"):
        ArrowSource(paths, store)


def test_unknown_fields_are_refused(tmp_path: Path, store: Store) -> None:
    path = _write(tmp_path / "a.arrow", _table(3))
    with pytest.raises(PipelineError, match="nothing"):
        ArrowSource([path], store, columns=["nothing"])


def test_what_is_written_is_read_by_pyarrow(tmp_path: Path) -> None:
    rows = [{"__key__": str(n), "raw": bytes([n]), "n": n} for n in range(25)]
    path = tmp_path / "out.arrow"
    assert write_arrow(path, iter(rows), rows_per_batch=10) == 25
    reader = pa.ipc.open_file(str(path))
    assert reader.num_record_batches == 3
    assert reader.read_all().to_pylist() == rows


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    def rows() -> Iterator[dict[str, Any]]:
        yield {"x": 1}
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError):
        write_arrow(tmp_path / "out.arrow", rows(), rows_per_batch=1)
    assert list(tmp_path.iterdir()) == []
