"""Pages and arrays that pyarrow made: the values that pyarrow reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from kernels.parquet_pages import DataPage, pages_of

from iopipe.kernels.columns import Affine, EncodedColumn, decode_column
from iopipe.kernels.columns_twin import decode_column as twin
from iopipe.kernels.packed import Packed, parse_runs
from iopipe.kernels.tuning import Config

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
AFFINE = Affine(mean=0.25, inv_std=2.0, fill=-7.0)
CONFIG = Config(blocks={"GROUPS": 128, "PROGRAMS": 5, "SHARED": 1}, num_warps=4)


def _device(content: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(content), dtype=torch.uint8).to(DEVICE)


def _hybrid(content: bytes, *, bit_width: int, num_values: int) -> Packed:
    runs = torch.from_numpy(parse_runs(content, bit_width=bit_width, num_values=num_values))
    data = _device(content or b"\0")
    return Packed(data=data, bit_width=bit_width, num_values=num_values, runs=runs.to(DEVICE))


def _column(page: DataPage, dictionary: bytes) -> EncodedColumn:
    return EncodedColumn(
        codes=_hybrid(page.codes, bit_width=page.bit_width, num_values=page.num_rows),
        validity=_hybrid(page.levels, bit_width=1, num_values=page.num_rows),
        compact=True,
        dictionary=_device(dictionary).view(torch.float32),
    )


def _values(kind: str, count: int) -> pa.Array:
    generator = np.random.default_rng(count)
    distinct = generator.standard_normal(300).astype(np.float32)
    if kind == "random":
        values, null = distinct[generator.integers(0, 300, count)], generator.random(count) < 0.2
    elif kind == "runs":  # repeated values, stretches of nulls, packed values between
        values = np.repeat(distinct, 40)[:count]
        values[::97] = distinct[5]
        null = (np.arange(count) // 60) % 3 == 1
    elif kind == "one value":
        values, null = np.full(count, 1.5, np.float32), np.arange(count) % 10 == 0
    else:
        values, null = distinct[generator.integers(0, 300, count)], np.ones(count, bool)
        null[count // 2] = False
    return pa.array(values, pa.float32(), mask=null)


def _normalised(array: pa.Array) -> torch.Tensor:
    values = np.array([AFFINE.fill if v is None else v for v in array.to_pylist()], np.float32)
    return (torch.from_numpy(values) - AFFINE.mean) * AFFINE.inv_std


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("kind", ["random", "runs", "one value", "nulls"])
def test_pages_of_parquet_files(tmp_path: Path, version: str, kind: str) -> None:
    array = _values(kind, 7003)
    path = tmp_path / "t.parquet"
    table = pa.table({"other": np.arange(len(array)), "x": array})
    pq.write_table(
        table, path, compression="none", data_page_version=version, data_page_size=4000,
        write_batch_size=1500,
    )  # fmt: skip
    dictionary, pages = pages_of(path, 1)
    assert len(pages) > 1 or kind != "random"
    start = 0
    for page in pages:
        column = _column(page, dictionary)
        expected = _normalised(array[start : start + page.num_rows])
        got = decode_column(column, dtype=torch.float32, affine=AFFINE, config=CONFIG)
        assert torch.equal(got.cpu(), expected)
        assert torch.equal(twin(column, dtype=torch.float32, affine=AFFINE).cpu(), expected)
        start += page.num_rows
    assert start == len(array)


@pytest.mark.parametrize("index_type", [pa.int8(), pa.int16(), pa.int32()])
@pytest.mark.parametrize("offset", [0, 1, 3, 13])
def test_slices_of_arrow_dictionaries(index_type: pa.DataType, offset: int) -> None:
    """Index buffers are packed at 8, 16 and 32 bits; a slice's bitmap begins within a byte."""
    generator = np.random.default_rng(offset)
    codes = pa.array(
        generator.integers(0, 100, 2600), index_type, mask=generator.random(2600) < 0.3
    )
    entries = generator.standard_normal(100).astype(np.float32)
    array = pa.DictionaryArray.from_arrays(codes, pa.array(entries))[offset : offset + 2500]
    bitmap, indices = array.indices.buffers()
    width = index_type.bit_width
    column = EncodedColumn(
        codes=Packed(
            data=_device(indices.to_pybytes()), bit_width=width, num_values=2500, first=offset
        ),
        validity=Packed(
            data=_device(bitmap.to_pybytes()), bit_width=1, num_values=2500, first=offset
        ),
        dictionary=torch.from_numpy(entries).to(DEVICE),
    )
    expected = _normalised(array.cast(pa.float32()))
    got = decode_column(column, dtype=torch.float32, affine=AFFINE, config=CONFIG)
    assert torch.equal(got.cpu(), expected)


def test_ids_of_an_integer_column(tmp_path: Path) -> None:
    """A Parquet column of int64 ids, nulls as an id of their own."""
    generator = np.random.default_rng(3)
    ids = pa.array(
        generator.integers(-(2**62), 2**62, 50)[generator.integers(0, 50, 3000)],
        mask=generator.random(3000) < 0.5,
    )
    path = tmp_path / "ids.parquet"
    pq.write_table(pa.table({"id": ids}), path, compression="none")
    dictionary, pages = pages_of(path, 0)
    column = EncodedColumn(
        codes=_hybrid(pages[0].codes, bit_width=pages[0].bit_width, num_values=3000),
        validity=_hybrid(pages[0].levels, bit_width=1, num_values=3000),
        compact=True,
        dictionary=_device(dictionary).view(torch.int64),
    )
    got = decode_column(column, dtype=torch.int64, affine=Affine(fill=-5))
    assert got.tolist() == [-5 if number is None else number for number in ids.to_pylist()]
