"""Arrow and Parquet as others write them, and as others read what we write."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from iopipe.errors import DataError, IopipeError, PipelineError
from iopipe.plan import mean_sample_bytes
from iopipe.readers import (
    DatasetWriter,
    OpenOptions,
    WriteOptions,
    open_source,
    verify_dataset,
)
from iopipe.storage import MemoryStore, PosixStore

NUM_ROWS = 40


def _table() -> pa.Table:
    numbers = range(NUM_ROWS)
    tensors = np.arange(NUM_ROWS * 6, dtype=np.float32).reshape(NUM_ROWS, 2, 3)
    return pa.table(
        {
            "__key__": [f"k{n}" for n in numbers],
            "jpg": pa.array([bytes([n]) * (n * 7 % 50) for n in numbers], pa.binary()),
            "x": pa.array([n * 0.5 for n in numbers], pa.float32()),
            "flag": [n % 3 == 0 for n in numbers],
            "box": pa.array([[n, n + 1, n + 2] for n in numbers], pa.list_(pa.int16(), 3)),
            "word": pa.array([f"w{n % 4}" for n in numbers]).dictionary_encode(),
            "nested": [{"a": [n, n]} for n in numbers],
            "tensor": pa.FixedShapeTensorArray.from_numpy_ndarray(tensors),
        }
    )


def _stream(path: Path, table: pa.Table) -> None:
    with pa.ipc.new_stream(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=11)


def _file(path: Path, table: pa.Table, compression: Any = None) -> None:
    options = pa.ipc.IpcWriteOptions(compression=compression)
    # one dictionary for all batches, since a file cannot replace it
    with pa.ipc.new_file(str(path), table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=11)


WRITERS: dict[str, Callable[[Path, pa.Table], Any]] = {
    "stream": _stream,
    "file": _file,
    "lz4": lambda path, table: _file(path, table, "lz4"),
    "zstd": lambda path, table: _file(path, table, "zstd"),
    "feather": lambda path, table: pyarrow.feather.write_feather(table, str(path)),
    "parquet": lambda path, table: pq.write_table(table, path, row_group_size=11),
    "parquet-zstd": lambda path, table: pq.write_table(
        table, path, row_group_size=7, compression="zstd", use_dictionary=False
    ),
}


def _same(value: Any, expected: Any) -> bool:
    plain = value.tolist() if isinstance(value, np.ndarray | np.generic) else value
    return bool(plain == expected)


@pytest.mark.parametrize("kind", ["local", "memory"])
@pytest.mark.parametrize("writer", list(WRITERS))
def test_what_pyarrow_writes_is_read(tmp_path: Path, writer: str, kind: str) -> None:
    table, path = _table(), tmp_path / "x.data"
    WRITERS[writer](path, table)
    expected = table.drop_columns(["tensor"]).to_pylist()
    tensors: Any = table["tensor"].combine_chunks()
    store: Any = PosixStore()
    if kind == "memory":
        store = MemoryStore()
        store.write(str(path), path.read_bytes())
    source = open_source(path, store=store)
    assert len(source) == NUM_ROWS
    assert source.schema.field("box").type == pa.list_(pa.int16(), 3)
    for ids in (range(NUM_ROWS), [39, 0, 11, 10, 10, 25]):
        samples = source.samples(ids, store)
        for row, number in enumerate(ids):
            got = samples.row(row)
            tensor = got.pop("tensor")
            assert np.array_equal(tensor, tensors.to_numpy_ndarray()[number])
            assert got.keys() == expected[number].keys()
            assert all(_same(got[name], expected[number][name]) for name in got)
    assert open_source(path, store=store, columns=["x"]).samples([3], store).row(0) == {
        "__key__": "k3",
        "x": 1.5,
    }


def test_what_hugging_face_datasets_writes_is_read(tmp_path: Path) -> None:
    rows = {"text": [f"t{n}" for n in range(25)], "label": list(range(25))}
    dataset = datasets.Dataset.from_dict(rows)
    dataset.save_to_disk(str(tmp_path / "disk"), num_shards=2)
    dataset.to_parquet(str(tmp_path / "x.parquet"))
    for path in (f"{tmp_path}/disk/*.arrow", tmp_path / "x.parquet"):
        source = open_source(path)
        samples = source.samples(range(25), PosixStore())
        assert samples.columns["text"] == rows["text"]
        assert samples.columns["label"].tolist() == rows["label"]  # type: ignore[union-attr]


def _samples() -> list[dict[str, Any]]:
    return [
        {
            "__key__": f"k{n}",
            "jpg": bytes([n]) * n,
            "cls": n,
            "text": f"t{n}",
            "box": np.arange(n, n + 4, dtype=np.float32),
            "image": np.full((2, 3, 1), n, np.uint8),
        }
        for n in range(25)
    ]


@pytest.mark.parametrize(
    ("format", "compression"),
    [("arrow", None), ("arrow", "lz4"), ("arrow", "zstd"), ("parquet", None), ("parquet", "zstd")],
)
def test_what_we_write_others_read(tmp_path: Path, format: str, compression: str | None) -> None:
    options = WriteOptions(compression=compression, rows_per_group=4)
    folder = tmp_path / "d"
    with DatasetWriter(folder, format=format, max_samples=10, options=options) as writer:
        for sample in _samples():
            writer.write(sample)
    shards = sorted(folder.glob(f"*.{format}"))
    assert len(shards) == 3
    if format == "arrow":
        table = pa.concat_tables([pa.ipc.open_file(str(shard)).read_all() for shard in shards])
    else:
        table = pa.concat_tables([pq.read_table(shard) for shard in shards])
    theirs = datasets.Dataset(table.drop_columns(["image"]))  # which knows no tensors
    expected = _samples()
    assert table["jpg"].to_pylist() == [sample["jpg"] for sample in expected]
    assert table["box"].to_pylist() == [sample["box"].tolist() for sample in expected]
    images: Any = table["image"].combine_chunks()
    assert np.array_equal(images.to_numpy_ndarray(), np.stack([s["image"] for s in expected]))
    assert theirs["text"][:] == [sample["text"] for sample in expected]
    source = open_source(folder, verify="sample")
    assert source.samples([24, 3], PosixStore()).keys == ["k24", "k3"]
    assert mean_sample_bytes(source) == mean_sample_bytes(open_source(folder)) > 10
    assert verify_dataset(folder).is_intact


def test_a_filter_selects_samples_exactly(tmp_path: Path) -> None:
    table = pa.table({"n": list(range(100)), "m": [n % 7 if n % 5 else None for n in range(100)]})
    for number in range(2):
        pq.write_table(table, tmp_path / f"{number}.parquet", row_group_size=13)
    wanted = (pc.field("n") >= 37) & (pc.field("m") == 3)
    options = OpenOptions(filter=wanted)
    source = open_source(f"{tmp_path}/*.parquet", columns=["n"], options=options)
    expected = [row["n"] for row in table.to_pylist() if row["n"] >= 37 and row["m"] == 3]
    assert len(source) == 2 * len(expected)
    samples = source.samples(range(len(source)), PosixStore())
    assert samples.columns["n"].tolist() == expected * 2  # type: ignore[union-attr]
    assert source.digest != open_source(f"{tmp_path}/*.parquet", columns=["n"]).digest
    with pytest.raises(DataError, match=r"0\.parquet.*filter .*nothing.* cannot be applied"):
        open_source(f"{tmp_path}/*.parquet", options=OpenOptions(filter=pc.field("nothing") > 0))


def test_only_the_row_groups_that_are_needed_are_read(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(
        pa.table({"a": list(range(100)), "b": [b"x" * 99] * 100}), path, row_group_size=10
    )
    source = open_source(path, columns=["a"])
    ranges = source.ranges([15, 11, 95])
    group = pq.ParquetFile(path).metadata.row_group(1)
    assert len(ranges) == 2
    assert ranges[0].length == group.column(0).total_compressed_size


@pytest.mark.parametrize("writer", ["lz4", "zstd", "parquet-zstd"])
def test_unpacked_sizes_are_limited(tmp_path: Path, writer: str) -> None:
    path = tmp_path / "x.data"
    WRITERS[writer](path, pa.table({"zeros": [bytes(1000)] * 1000}))
    limited = OpenOptions(max_sample_bytes=5000)
    with pytest.raises(DataError, match="allowed are 5000"):
        open_source(path, options=limited).samples([0], PosixStore())
    assert path.stat().st_size < 1_000_000  # what the zeros are


@pytest.mark.parametrize("format", ["arrow", "parquet"])
def test_rows_that_do_not_fit_are_refused_by_key(tmp_path: Path, format: str) -> None:
    with pytest.raises(DataError, match=r"k2.*'n' does not fit int64"):
        with DatasetWriter(tmp_path / "a", format=format) as writer:
            writer.write({"__key__": "k1", "n": 1})
            writer.write({"__key__": "k2", "n": "two"})
    with pytest.raises(DataError, match=r"k2.*fields"):
        with DatasetWriter(tmp_path / "b", format=format) as writer:
            writer.write({"__key__": "k1", "n": 1})
            writer.write({"__key__": "k2", "m": 1})
    with pytest.raises(PipelineError, match="compression is 'rar'"):
        options = WriteOptions(compression="rar")
        with DatasetWriter(tmp_path / "c", format=format, options=options) as writer:
            writer.write({"__key__": "k1", "n": 1})


@pytest.mark.parametrize("writer", list(WRITERS))
def test_damaged_files_are_errors_or_other_values(tmp_path: Path, writer: str) -> None:
    path = tmp_path / "x.data"
    WRITERS[writer](path, _table())
    content = path.read_bytes()
    generator = np.random.default_rng(1)
    for offset in generator.integers(0, len(content), 60).tolist():
        flipped = bytes([content[offset] ^ int(generator.integers(1, 256))])
        path.write_bytes(content[:offset] + flipped + content[offset + 1 :])
        try:
            source = open_source(path)
            source.samples(range(len(source)), PosixStore())
        except IopipeError:
            continue
    for end in (0, 7, 100, len(content) // 2):
        path.write_bytes(content[:end])
        with pytest.raises(IopipeError):
            source = open_source(path)
            assert len(source) == NUM_ROWS


def test_dictionaries_are_looked_up_row_by_row(tmp_path: Path) -> None:
    store = PosixStore()
    indices = pa.array([2, 0, None, 1, 0], pa.int8())
    for values in (
        pa.array([b"a", b"bb", None]),
        pa.array(["a", "bb", None]),
        pa.array([7, 8, None]),
    ):
        array = pa.DictionaryArray.from_arrays(indices, values)
        table = pa.table({"x": array, "n": range(5)})
        with pa.ipc.new_file(str(tmp_path / "d.arrow"), table.schema) as writer:
            writer.write_table(table)
        source = open_source(tmp_path / "d.arrow")
        found = source.samples([4, 3, 1], store).columns["x"]
        expected = array.dictionary_decode().take(pa.array([4, 3, 1])).to_pylist()
        assert [bytes(v) if isinstance(v, memoryview) else v for v in found] == expected
        for row in (0, 2):  # a null among the values, and one among the indices
            with pytest.raises(DataError, match="null"):
                source.samples([row], store)
        assert source.locate(3).shard.endswith("d.arrow")
        assert all(part.length >= 0 for part in source.ranges(range(5)))
