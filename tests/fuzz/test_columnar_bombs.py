"""Columnar files of a few hundred bytes that name gigabytes: read row by row, or refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fuzz.jail import Jail

from iopipe.readers.arrow_framing import frames

_NUM_ROWS = 200_000
_VALUE_BYTES = 100_000
_LIMIT = 1 << 22


def _dictionary() -> pa.Table:
    """Every row is the same large value: 20 GB, if it were written out."""
    indices = pa.array(np.zeros(_NUM_ROWS, np.int32))
    values = pa.array([b"x" * _VALUE_BYTES])
    return pa.table({"data": pa.DictionaryArray.from_arrays(indices, values)})


def _arrow(table: pa.Table, path: Path) -> None:
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_file(str(path), table.schema, options=options) as writer:
        writer.write_table(table)


def _parquet(table: pa.Table, path: Path, *, store_schema: bool = True) -> None:
    pq.write_table(
        table, path, compression="zstd", row_group_size=1 << 30, store_schema=store_schema
    )


def _read(jail: Jail, write: Callable[[Path], None], name: str, store: str) -> dict[str, Any]:
    folder = jail.folder / "bomb"
    folder.mkdir(exist_ok=True)
    write(folder / name)
    assert (folder / name).stat().st_size < 1 << 20
    answer = jail.examine(
        operation="read",
        folder=str(folder),
        name=name,
        store=store,
        verify="off",
        on_error="raise",
        options={"max_sample_bytes": _LIMIT},
        expected={},
        has_exact_ranges=False,
    )
    assert not answer["complaints"], "\n".join(answer["complaints"])
    return answer


@pytest.mark.parametrize("store", ["posix", "memory"])
def test_a_dictionary_of_arrow_is_never_written_out(jail: Jail, store: str) -> None:
    answer = _read(jail, lambda path: _arrow(_dictionary(), path), "d.arrow", store)
    assert answer["num_samples"] == _NUM_ROWS and len(answer["found"]) == 64


@pytest.mark.parametrize("store", ["posix", "memory"])
@pytest.mark.parametrize("store_schema", [True, False])
def test_a_dictionary_of_parquet_is_refused(jail: Jail, store: str, store_schema: bool) -> None:
    def write(path: Path) -> None:
        _parquet(_dictionary(), path, store_schema=store_schema)

    answer = _read(jail, write, "d.parquet", store)
    assert answer["num_samples"] == _NUM_ROWS and not answer["found"]


def test_runs_of_numbers_are_refused(jail: Jail) -> None:
    table = pa.table({"zeros": np.zeros(8_000_000, np.int64)})
    answer = _read(jail, lambda path: _parquet(table, path), "z.parquet", "posix")
    assert answer["num_samples"] == 8_000_000 and not answer["found"]


def test_large_values_that_are_packed_well_are_refused(jail: Jail) -> None:
    table = pa.table({"zeros": [bytes(1 << 25)]})
    answer = _read(jail, lambda path: _arrow(table, path), "z.arrow", "posix")
    assert "max_sample_bytes" in answer["refused"]

    def write(path: Path) -> None:
        pq.write_table(table, path, compression="zstd", use_dictionary=False)

    assert not _read(jail, write, "p.parquet", "posix")["found"]


def test_a_stream_is_refused_that_is_small_batch_by_batch_only(jail: Jail) -> None:
    batch = pa.record_batch({"zeros": [bytes(1 << 20)]})
    options = pa.ipc.IpcWriteOptions(compression="zstd")

    def write(path: Path) -> None:
        with pa.ipc.new_stream(str(path), batch.schema, options=options) as writer:
            for _ in range(300):
                writer.write_batch(batch)

    assert "stream" in _read(jail, write, "s.arrow", "posix")["refused"]


def test_a_footer_that_lists_a_hidden_batch_is_refused(jail: Jail) -> None:
    """A batch that nobody passes on the way through the file: it lies inside a value."""

    def write(path: Path) -> None:
        schema = pa.schema({"zeros": pa.binary()})
        _arrow(pa.table({"zeros": [bytes(1 << 25)]}, schema), path)
        packed = path.read_bytes()
        (bomb,) = frames(memoryview(packed), "")
        hidden = packed[bomb.place :]
        for shift in range(8):  # messages lie at multiples of eight bytes
            with pa.ipc.new_file(str(path), schema) as writer:
                writer.write_table(pa.table({"zeros": [bytes(shift) + hidden]}, schema))
            content = path.read_bytes()
            place = content.index(hidden)
            if place % 8 == 0:
                break
        (honest,) = frames(memoryview(content), "")
        listed = packed.rindex(bomb.place.to_bytes(8, "little"))
        block = place.to_bytes(8, "little") + packed[listed + 8 : listed + 24]
        footer = content.rindex(honest.place.to_bytes(8, "little"))
        path.write_bytes(content[:footer] + block + content[footer + 24 :])
        assert pa.ipc.open_file(str(path)).get_batch(0).num_rows == 1  # pyarrow believes it

    assert "footer lists" in _read(jail, write, "h.arrow", "posix")["refused"]
