"""What a row group may take: the limit holds, and is looked at before memory is taken."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from iopipe.errors import DataError
from iopipe.protocols import Source
from iopipe.readers import OpenOptions, open_source
from iopipe.readers.parquet_footer import Chunk, read_pages
from iopipe.readers.parquet_pages import plan_steps
from iopipe.storage import MemoryStore, PosixStore

LIMIT = 1 << 22
_POOLS: list[pa.ProxyMemoryPool] = []
"""What was taken from one is given back to it, whenever that is."""


@contextmanager
def _peak(most_bytes: int) -> Iterator[None]:
    """What is done here takes no more of Arrow's memory than this at any instant."""
    before = pa.default_memory_pool()
    pool = pa.proxy_memory_pool(before)
    _POOLS.append(pool)
    pa.set_memory_pool(pool)
    try:
        yield
    finally:
        pa.set_memory_pool(before)
    assert (pool.max_memory() or 0) <= most_bytes


def _written(path: Path, table: pa.Table, **options: Any) -> Path:
    options = {"compression": "zstd", "row_group_size": 1 << 30, **options}
    pq.write_table(table, path, **options)
    return path


def _opened(path: Path, limit: int = LIMIT, **options: Any) -> Source:
    return open_source(path, options=OpenOptions(max_sample_bytes=limit), **options)


def _refused(path: Path, *, limit: int = LIMIT, most_bytes: int = LIMIT // 4) -> None:
    source, store = _opened(path, limit), PosixStore()
    with _peak(most_bytes), pytest.raises(DataError, match="raise max_sample_bytes") as caught:
        source.samples([1], store)
    assert caught.value.row == 0 and caught.value.shard == str(path)


TABLES = {
    "plain": (pa.table({"x": [bytes([n % 256]) * 1000 for n in range(4000)]}), False),
    "dictionary": (pa.table({"x": [bytes([n % 7]) * 1000 for n in range(4000)]}), True),
    "numbers": (pa.table({"x": np.arange(500_000)}), False),
    "runs": (pa.table({"x": np.zeros(500_000, np.int64)}), True),
    "nested": (pa.table({"x": [[f"word {n % 9}"] * 40 for n in range(6000)]}), True),
}


@pytest.mark.parametrize("kind", list(TABLES))
@pytest.mark.parametrize("store_class", [PosixStore, MemoryStore])
def test_at_the_border(tmp_path: Path, kind: str, store_class: Any) -> None:
    """A tenth more than the rows take is enough, and no more than twice of it is taken at any
    instant; a tenth less is refused, before anything is taken but where every row of a
    dictionary may be its largest value, which these are."""
    table, has_dictionary = TABLES[kind]
    path = _written(tmp_path / "x.parquet", table, use_dictionary=has_dictionary)
    size = table["x"].combine_chunks().nbytes
    store = store_class()
    if isinstance(store, MemoryStore):
        store.write(str(path), path.read_bytes())
    limit = size * 11 // 10
    source = _opened(path, limit, store=store)
    with _peak(2 * limit):
        found = source.samples([len(source) - 1, 1], store).columns["x"]
    assert _plain(found) == [table["x"][-1].as_py(), table["x"][1].as_py()]
    source = _opened(path, size * 9 // 10, store=store)
    most_bytes = 2 * limit if kind == "dictionary" else size // 4
    with _peak(most_bytes), pytest.raises(DataError, match="may decode to") as caught:
        source.samples([1], store)
    assert caught.value.row == 0


def _plain(column: Any) -> list[Any]:
    return [
        bytes(v) if isinstance(v, memoryview) else getattr(v, "tolist", lambda v=v: v)()
        for v in column
    ]


def test_a_dictionary_with_one_large_value_is_read_some_rows_at_a_time(tmp_path: Path) -> None:
    """Each of the 4,000 rows may be the largest value, of which there are 30."""
    values = [bytes([n % 5]) * (100_000 if n % 140 == 0 else 20) for n in range(4000)]
    path = _written(tmp_path / "x.parquet", pa.table({"x": values, "n": range(4000)}))
    source, store = _opened(path), PosixStore()
    with _peak(2 * LIMIT):
        samples = source.samples(range(4000), store)
    assert [bytes(value) for value in samples.columns["x"]] == values
    _refused(path, limit=1 << 20, most_bytes=2 << 20)


def test_values_that_are_made_of_the_ones_before_are_refused(tmp_path: Path) -> None:
    """A thousand times the same 100 kB take 100 kB, with no dictionary."""
    table = pa.table({"x": [b"x" * 100_000] * 1000})
    options = {"use_dictionary": False, "column_encoding": {"x": "DELTA_BYTE_ARRAY"}}
    path = _written(tmp_path / "x.parquet", table, compression="none", **options)
    assert path.stat().st_size < 300_000
    _refused(path, most_bytes=2 * LIMIT)


def test_one_row_that_names_a_large_value_often_is_refused(tmp_path: Path) -> None:
    table = pa.table({"x": [[b"x" * 100_000] * 1000, [b"y"]]})
    path = _written(tmp_path / "x.parquet", table)
    assert path.stat().st_size < 10_000
    _refused(path)


@pytest.mark.parametrize("codec", ["none", "snappy", "gzip", "brotli", "lz4", "zstd"])
@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_pages_of_every_kind_are_judged(tmp_path: Path, codec: str, version: str) -> None:
    """With a limit at which the values of dictionaries have to be looked at."""
    numbers = range(3000)
    table = pa.table(
        {
            "word": [None if n % 11 == 0 else f"word {n % 13}" * (n % 13) for n in numbers],
            "list": [[f"{n % 5}"] * (n % 4) for n in numbers],
            "fixed": pa.array([bytes([n % 3]) * 16 for n in numbers], pa.binary(16)),
            "when": pa.array(numbers, pa.timestamp("ns")),
            "flag": [n % 3 == 0 for n in numbers],
            "pair": [{"a": n, "b": f"{n % 7}"} for n in numbers],
            "sparse": [None] * 2999 + [1.5],
        }
    )
    path = _written(
        tmp_path / "x.parquet",
        table,
        compression=codec,
        data_page_version=version,
        data_page_size=2000,
        row_group_size=1000,
        write_page_checksum=True,
    )
    store = PosixStore()
    rows = table.to_pylist()
    assert _opened(path, 300_000).samples([2999], store).row(0)["sparse"] == 1.5
    source = _opened(path, 300_000, columns=["word", "list", "fixed", "when", "flag", "pair"])
    wanted = [n for n in numbers if n % 11]
    samples = source.samples(wanted, store)
    for name in source.columns:
        assert _plain(samples.columns[name]) == [rows[n][name] for n in wanted]


def test_only_the_columns_that_are_read_count(tmp_path: Path) -> None:
    table = pa.table({"jpg": [bytes(100_000)] * 100, "cls": range(100)})
    path = _written(tmp_path / "x.parquet", table, use_dictionary=False)
    source = _opened(path, columns=["cls"])
    assert source.samples([99], PosixStore()).columns["cls"][0] == 99
    _refused(path)


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value >= 0x80:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


def _header(unpacked: int, packed: int, num_values: int) -> bytes:
    """A PageHeader of a PLAIN data page, in Thrift's compact protocol."""
    data = b"\x15" + _varint(2 * num_values) + b"\x15\x00\x15\x06\x15\x06\x00"
    sizes = b"\x15" + _varint(2 * unpacked) + b"\x15" + _varint(2 * packed)
    return b"\x15\x00" + sizes + b"\x2c" + data + b"\x00"


def _chunk(content: bytes, num_values: int, kind: int = 6) -> tuple[Any, Chunk]:
    chunk = Chunk("x", 0, len(content), 10, num_values, kind, 6)
    return lambda offset, length: content[offset : offset + length], chunk


def test_a_page_is_believed_before_the_footer() -> None:
    """pyarrow makes room for what a page says, whatever the footer adds up to."""
    read, chunk = _chunk(_header(50, 8, 3) + bytes(8) + _header(1 << 31, 8, 3) + bytes(8), 6)
    assert [page.num_unpacked_bytes for page in read_pages(read, chunk)] == [50, 1 << 31]
    num_bytes, rows_at_once = plan_steps(read, [chunk], 6, LIMIT)
    assert num_bytes > LIMIT and rows_at_once is None
    read, chunk = _chunk(_header(50, 8, 1 << 30) + bytes(8), 1 << 30, kind=2)
    assert plan_steps(read, [chunk], 6, LIMIT)[0] == 8 << 30
    read, chunk = _chunk(_header(50, 8, 6) + bytes(8), 6, kind=2)
    assert plan_steps(read, [chunk], 1 << 40, LIMIT)[0] >= 8 << 40


def test_long_headers_are_read_and_damaged_ones_refused() -> None:
    header = _header(50, 8, 3)
    statistics = b"\x1c\x18" + _varint(5000) + bytes(5000) + b"\x00"
    content = header[:-2] + statistics + header[-2:] + bytes(8)
    read, chunk = _chunk(content, 3)
    (page,) = read_pages(read, chunk)
    assert (page.num_values, page.offset) == (3, len(content) - 8)
    for damaged in (content[:-8], content[:3000], header[:4], b"\x15\x00" + bytes(9)):
        read, chunk = _chunk(damaged, 3)
        with pytest.raises(DataError, match="page of column 'x' is damaged"):
            read_pages(read, chunk)


def test_a_row_group_of_a_remote_file_is_asked_for_once(tmp_path: Path) -> None:
    class Counting(MemoryStore):
        num_reads = 0

        def read_into(self, path: str, offset: int, buffer: memoryview) -> int:
            self.num_reads += 1
            return super().read_into(path, offset, buffer)

    table = pa.table({"x": [bytes(50_000 + n) for n in range(100)], "n": range(100)})
    path = _written(tmp_path / "x.parquet", table, use_dictionary=False, data_page_size=1000)
    store = Counting()
    store.write("memory://x.parquet", path.read_bytes())
    source = open_source("memory://x.parquet", store=store)
    store.num_reads = 0
    assert len(source.samples([50], store).columns["x"][0]) == 50_050
    assert store.num_reads == 2
