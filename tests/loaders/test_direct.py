"""Rows of numbers read into the device's memory: what, how often, and what is refused."""

from __future__ import annotations

import io
import json
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from fakes.device_store import FakeDeviceStore
from fakes.link import FakeLink
from fakes.source import FakeToolkit

import iopipe
from iopipe.errors import DataError, PipelineError
from iopipe.loaders.crossover import compare, ranges_of
from iopipe.pipeline import Pipeline
from iopipe.storage import PosixStore

NUM_ROWS = 1000


@pytest.fixture
def table(tmp_path: Path) -> pa.Table:
    generator = np.random.default_rng(5)
    embedding = pa.FixedSizeListArray.from_arrays(
        generator.standard_normal(NUM_ROWS * 6, np.float32), 6
    )
    tensor = pa.FixedShapeTensorArray.from_numpy_ndarray(
        generator.integers(0, 255, (NUM_ROWS, 2, 3), np.uint8)
    )
    found = pa.table(
        {
            "label": pa.array(generator.integers(-9, 9, NUM_ROWS), pa.int64()),
            "weight": pa.array(generator.standard_normal(NUM_ROWS)),
            "embedding": embedding,
            "tensor": tensor,
        }
    )
    write(found, tmp_path / "t.arrow")
    return found


def write(table: pa.Table, path: Path, rows: int = 300, compression: str | None = None) -> None:
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.ipc.new_file(path, table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=rows)


def _direct(pipeline: Pipeline, store: Any, path: Any = "direct") -> Pipeline:
    placed = Pipeline(
        stages=pipeline.stages,
        source=pipeline.source,
        toolkit=FakeToolkit(FakeLink()),
        order=pipeline.order,
        store=store,
        on_error=pipeline.on_error,
    )
    return placed.batch(128).to("fake", path=path)


def _numpy(table: pa.Table, name: str) -> np.ndarray[Any, Any]:
    column = table.column(name).combine_chunks()
    if isinstance(column.type, pa.FixedShapeTensorType):
        return column.to_numpy_ndarray()
    if pa.types.is_fixed_size_list(column.type):
        return column.values.to_numpy().reshape(len(column), -1)
    return column.to_numpy()


@pytest.mark.parametrize("mode", ["none", "block", "full"])
def test_rows_come_as_pyarrow_reads_them(tmp_path: Path, table: pa.Table, mode: Any) -> None:
    pipeline = iopipe.read(tmp_path / "t.arrow").shuffle(1, mode=mode, block_samples=64)
    store = FakeDeviceStore()
    seen = 0
    with _direct(pipeline, store).run() as run, pipeline.batch(128).run() as host:
        for batch, expected in zip(run, host, strict=True):
            rows = np.array([int(key) for key in batch["__key__"]])
            for name in table.column_names:
                assert np.array_equal(batch[name].numpy(), _numpy(table, name)[rows])
                assert torch.equal(batch[name], expected[name])
            seen += len(rows)
        assert run.state_dict() == host.state_dict()
    assert seen == NUM_ROWS
    if mode == "none":  # 1000 rows at once; 4 record batches of 4 columns
        assert len(store.device_reads) == 16
    store.close()


def test_a_run_goes_on_from_the_hosts_state(tmp_path: Path, table: pa.Table) -> None:
    pipeline = iopipe.read(tmp_path / "t.arrow").shuffle(1)
    with pipeline.batch(128).run() as host:
        for _ in range(3):
            next(host)
        state, expected = host.state_dict(), [batch["label"].clone() for batch in host]
    store = FakeDeviceStore()
    with _direct(pipeline, store).run() as run:
        run.load_state_dict(state)
        found = [batch["label"].clone() for batch in run]
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    store.close()


def test_a_null_is_refused_by_its_row_or_left_out(tmp_path: Path) -> None:
    values: list[int | None] = list(range(500))
    values[137] = None
    write(pa.table({"x": pa.array(values, pa.int32())}), tmp_path / "t.arrow", rows=100)
    store = FakeDeviceStore()
    with (
        pytest.raises(DataError, match="sample 137: field 'x' is null"),
        _direct(iopipe.read(tmp_path / "t.arrow"), store).run() as run,
    ):
        list(run)
    with _direct(iopipe.read(tmp_path / "t.arrow", on_error="skip"), store).run() as run:
        sizes, found = [], []
        for batch in run:
            sizes.append(len(batch["x"]))
            found += batch["x"].tolist()
    assert sizes == [128, 127, 128, 116]
    assert found == [value for value in values if value is not None]
    store.close()


def test_token_windows_are_read_as_they_lie(tmp_path: Path) -> None:
    tokens = np.arange(5000, dtype=np.uint16)
    tokens.tofile(tmp_path / "t.bin")
    store = FakeDeviceStore()
    pipeline = iopipe.read(tmp_path / "t.bin", window=10)
    with _direct(pipeline, store).run() as run:
        found = torch.cat([batch["tokens"] for batch in run])
    assert np.array_equal(found.numpy().ravel(), tokens)
    assert store.device_reads == [(0, 10000)]
    store.close()


def _arrays(folder: Path, arrays: Any) -> Path:
    with iopipe.DatasetWriter(folder, max_samples=7) as writer:
        for number, array in enumerate(arrays):
            raw = io.BytesIO()
            np.save(raw, array)
            writer.write({"__key__": f"k{number:03d}", "x.npy": raw.getvalue()})
    return folder


def test_npy_members_of_tar_shards_are_read_without_their_headers(tmp_path: Path) -> None:
    arrays = np.random.default_rng(2).standard_normal((20, 3, 5), np.float32)
    pipeline = iopipe.read(_arrays(tmp_path / "d", arrays)).shuffle(4).decode()
    store = HeadsOnly()
    with _direct(pipeline, store).run() as run, pipeline.batch(128).run() as host:
        for batch, expected in zip(run, host, strict=True):
            assert batch["__key__"] == expected["__key__"]
            assert torch.equal(batch["x.npy"], expected["x.npy"])
            rows = [int(key[1:]) for key in batch["__key__"]]
            assert np.array_equal(batch["x.npy"].numpy(), arrays[rows])
    assert {length for _, length in store.device_reads} == {60}
    store.close()


@pytest.mark.parametrize(
    ("odd", "said"),
    [
        (np.asfortranarray(np.zeros((3, 5), np.float32)), "sample 2: its array is float32 in For"),
        (np.zeros((3, 5), ">f4"), "sample 2: its array is >f4"),
        (np.zeros((3, 4), np.float32), r"arrays of float32 \[3, 5\] and of float32 \[3, 4\]"),
    ],
)
def test_npy_members_that_make_no_rows_are_refused(tmp_path: Path, odd: Any, said: str) -> None:
    usual = np.zeros((3, 5), np.float32)
    pipeline = iopipe.read(_arrays(tmp_path / "d", [usual, usual, odd])).decode()
    store = HeadsOnly()
    with (
        pytest.raises((DataError, PipelineError), match=said),
        _direct(pipeline, store).run() as run,
    ):
        next(run)
    store.close()


def _member(tensors: dict[str, np.ndarray[Any, Any]], **changes: Any) -> bytes:
    """As the format's description has it."""
    names = {"<f4": "F32", "<i8": "I64", "|u1": "U8"}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    body = b""
    for name, array in tensors.items():
        end = len(body) + array.nbytes
        kind, shape = names[array.dtype.str], list(array.shape)
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [len(body), end]}
        body += array.tobytes()
    for name, change in changes.items():
        header[name] |= change
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def _members(folder: Path, members: Any) -> Pipeline:
    with iopipe.DatasetWriter(folder, max_samples=4) as writer:
        for number, raw in enumerate(members):
            writer.write({"__key__": f"k{number:03d}", "s.safetensors": raw})
    return iopipe.read(folder).decode()


def test_safetensors_members_are_read_tensor_by_tensor(tmp_path: Path) -> None:
    generator = np.random.default_rng(3)
    made = [
        {"w": generator.standard_normal((2, 3), np.float32), "n": generator.integers(0, 9, (1,))}
        for _ in range(9)
    ]
    pipeline = _members(tmp_path / "d", map(_member, made)).shuffle(1)
    store = HeadsOnly()
    with _direct(pipeline, store).run() as run:
        (batch,) = list(run)
    for row, key in enumerate(batch["__key__"]):
        tensors = made[int(key[1:])]
        assert np.array_equal(batch["s.safetensors/w"][row].numpy(), tensors["w"])
        assert np.array_equal(batch["s.safetensors/n"][row].numpy(), tensors["n"])
    store.close()


@pytest.mark.parametrize(
    ("odd", "said"),
    [
        (b"abc", "header has .* bytes of 3"),
        (struct.pack("<Q", 1 << 40) + b"{}", "header has 1099511627776 bytes of 10"),
        (struct.pack("<Q", 2) + b"[]", "safetensors header is damaged"),
        (_member({"w": np.zeros(4, np.uint8)}, w={"dtype": "BF16"}), "'BF16' is not one of"),
        (_member({"w": np.zeros(4, np.uint8)}, w={"shape": [5]}), "do not fit uint8"),
        (_member({"w": np.zeros(4, np.uint8)}, w={"data_offsets": [2, 6]}), "lie outside"),
        (_member({"v": np.zeros(4, np.uint8)}), "which make no batch"),
    ],
)
def test_damaged_safetensors_are_refused(tmp_path: Path, odd: bytes, said: str) -> None:
    usual = _member({"w": np.zeros(4, np.uint8)})
    pipeline = _members(tmp_path / "d", [usual, odd])
    store = HeadsOnly()
    with (
        pytest.raises((DataError, PipelineError), match=said),
        _direct(pipeline, store).run() as run,
    ):
        next(run)
    with pytest.raises(PipelineError, match="use path='direct'"):
        pipeline.batch(2).to("cuda", path="auto")
    store.close()


class HeadsOnly(FakeDeviceStore):
    """The host may read headers."""

    def submit(self, requests: Any) -> Any:
        assert all(len(request.buffer) <= 256 for request in requests)
        return PosixStore.submit(self, requests)


def test_what_cannot_go_straight_is_refused_by_name(tmp_path: Path, table: pa.Table) -> None:
    pipeline = iopipe.read(tmp_path / "t.arrow")
    store = FakeDeviceStore()
    with pytest.raises(PipelineError, match="leave out map and pack"):
        pipeline.map(lambda row: row).batch(2).to("cuda", path="direct")
    with pytest.raises(PipelineError, match="another tail"):
        pipeline.split(0, 1, tail="pad").batch(2).to("cuda", path="direct")
    with pytest.raises(PipelineError, match="give 'slots', 'direct' or 'auto'"):
        pipeline.batch(2).to("cuda", path="fast")  # type: ignore[arg-type]
    with pytest.raises(PipelineError, match="does not read into a device's memory"):
        with _direct(pipeline, PosixStore()).run() as run:
            next(run)
    write(table, tmp_path / "packed.arrow", compression="zstd")
    packed = _direct(iopipe.read(tmp_path / "packed.arrow"), store)
    with pytest.raises(PipelineError, match="without compression"), packed.run() as run:
        next(run)
    text = pa.table({"x": [1, 2], "text": ["a", "b"]})
    write(text, tmp_path / "text.arrow")
    of_text = _direct(iopipe.read(tmp_path / "text.arrow"), store)
    with (
        pytest.raises(PipelineError, match=r"column 'text' is string.*columns="),
        of_text.run() as r,
    ):
        next(r)
    store.close()


def test_auto_says_what_it_chose(tmp_path: Path, table: pa.Table) -> None:
    store = FakeDeviceStore()
    described = _direct(iopipe.read(tmp_path / "t.arrow"), store, "auto").describe()
    assert "path direct (the test says so)" in described
    store.close()


def test_auto_without_kvikio_takes_slots_and_says_why(
    tmp_path: Path, table: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "kvikio", None)
    pipeline = iopipe.read(tmp_path / "t.arrow").batch(100).to("cpu", path="auto")
    assert "path slots (auto: iopipe.storage.gds needs kvikio" in pipeline.describe()
    with pipeline.run() as run:
        assert sum(len(batch["label"]) for batch in run) == NUM_ROWS


def test_both_ways_are_compared_over_the_same_ranges(tmp_path: Path, table: pa.Table) -> None:
    source: Any = iopipe.open_source(tmp_path / "t.arrow")
    host, device = PosixStore(), FakeDeviceStore()
    ranges = ranges_of(source, [list(range(100)), [0, 5, 900]], host)
    assert len(ranges) == 4 + 4 * 3
    assert min(compare(FakeLink(), host, device, ranges)) > 0
    asked = {(part.offset, part.length) for part in ranges}
    assert set(device.device_reads) == asked
    host.close()
    device.close()
