"""Shards damaged at several places: what is left is what was written, the rest is counted."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import iopipe
from iopipe.errors import DataError, StorageError
from iopipe.jobs import ShardOptions, shard
from iopipe.protocols import Source
from iopipe.readers import open_source, verify_dataset
from iopipe.readers.arrow_framing import frames
from iopipe.readers.checksums import fingerprint, rows_of
from iopipe.storage import MemoryStore, PosixStore

NUM_ROWS, GROUP_ROWS = 90, 10
_WRITER = Path(__file__).with_name("write_mds.py")


def _table(first: int, num_rows: int) -> pa.Table:
    generator = np.random.default_rng(first)
    numbers = range(first, first + num_rows)
    return pa.table(
        {
            "__key__": [f"k{n}" for n in numbers],
            "bin": [bytes([n]) * 100 + generator.bytes(n) for n in numbers],
            "n": list(numbers),
        }
    )


def _parquet(folder: Path) -> None:
    for first in range(0, NUM_ROWS, 30):
        table = _table(first, 30)
        path = folder / f"{first:02d}.parquet"
        pq.write_table(table, path, row_group_size=GROUP_ROWS, compression="zstd")


def _arrow(folder: Path) -> None:
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    for first in range(0, NUM_ROWS, 30):
        table = _table(first, 30)
        path = str(folder / f"{first:02d}.arrow")
        with pa.ipc.new_file(path, table.schema, options=options) as writer:
            writer.write_table(table, max_chunksize=GROUP_ROWS)


def _mds(folder: Path, compression: str) -> None:
    command = [sys.executable, str(_WRITER), str(folder), compression, "plain"]
    subprocess.run(command, check=True, capture_output=True)


FORMATS: dict[str, Callable[[Path], None]] = {
    "parquet": _parquet,
    "arrow": _arrow,
    "mds": lambda folder: _mds(folder, "none"),
    "mds-zstd": lambda folder: _mds(folder, "zstd"),
}


@pytest.fixture(scope="module", params=list(FORMATS))
def written(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path]:
    folder: Path = tmp_path_factory.mktemp(request.param)
    FORMATS[request.param](folder)
    return request.param, folder


@pytest.fixture
def dataset(written: tuple[str, Path], tmp_path: Path) -> tuple[str, Path]:
    folder = tmp_path / "data"
    folder.mkdir()
    for path in written[1].iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return written[0], folder


def _shards(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.name != "index.json")


def _spoil(path: Path, offset: int, num_bytes: int = 24) -> None:
    content = bytearray(path.read_bytes())
    content[offset : offset + num_bytes] = b"\xff" * num_bytes
    path.write_bytes(content)


def _prints(source: Source, ids: list[int]) -> dict[int, int]:
    """What each sample is that can be read by itself; every error names its row."""
    store, found = PosixStore(), {}
    for sample in ids:
        try:
            (fields,) = rows_of(source.samples([sample], store))
        except DataError as error:
            assert error.row == 0
            continue
        found[sample] = fingerprint(fields)
    store.close()
    return found


def _damaged(kind: str, folder: Path) -> set[int]:
    """Spoil one stretch in each of three shards; the rows that it may cost."""
    shards, lost = _shards(folder), set()
    source = open_source(folder)
    of_shard = [source.locate(n).shard for n in range(len(source))]
    if kind == "mds":  # a table's offset, a size within a sample, and the end of a shard
        _spoil(shards[0], 4 + 4 * 3, 4)
        lost |= {2, 3}
        rows = [n for n, name in enumerate(of_shard) if name == str(shards[1])]
        source.samples(rows, PosixStore())
        _spoil(shards[1], source.locate(rows[1]).offset, 4)
        lost |= {rows[1]}
        shards[2].write_bytes(shards[2].read_bytes()[:-1])
        lost |= {max(n for n, name in enumerate(of_shard) if name == str(shards[2]))}
        return lost
    if kind == "mds-zstd":
        _spoil(shards[0], 0)
        shards[2].write_bytes(shards[2].read_bytes()[:-9])
        lost = {n for n, name in enumerate(of_shard) if name in (str(shards[0]), str(shards[2]))}
        return lost
    for row in (5, 47, 88):
        path, group = Path(of_shard[row]), row % 30 // GROUP_ROWS
        if kind == "arrow":
            _spoil(path, _packed(path, _messages(path)[group]))
        else:  # the header of a page, then what pages hold
            column = pq.ParquetFile(path).metadata.row_group(group).column(1)
            start: int = column.data_page_offset
            _spoil(path, start if row == 5 else _packed(path, start))
        lost |= set(range(row // GROUP_ROWS * GROUP_ROWS, row // GROUP_ROWS * GROUP_ROWS + 10))
    return lost


def _messages(path: Path) -> list[int]:
    return [frame.place for frame in frames(memoryview(path.read_bytes()), "")]


def _packed(path: Path, start: int) -> int:
    """Where what zstd made begins, by its magic number."""
    return path.read_bytes().index(b"\x28\xb5\x2f\xfd", start)


def test_damage_costs_its_rows_and_no_others(dataset: tuple[str, Path]) -> None:
    kind, folder = dataset
    whole = open_source(folder)
    ids = list(range(len(whole)))
    expected = _prints(whole, ids)
    assert list(expected) == ids
    lost = _damaged(kind, folder)
    source = open_source(folder)
    assert len(source) == len(whole)
    found = _prints(source, ids)
    assert found == {sample: print for sample, print in expected.items() if sample not in lost}
    again = pickle.loads(pickle.dumps(source))
    assert _prints(again, ids) == found


@pytest.mark.parametrize("policy", ["skip", "quarantine"])
def test_a_run_goes_on_without_them(dataset: tuple[str, Path], policy: Any) -> None:
    kind, folder = dataset
    num_rows = len(open_source(folder))
    lost = _damaged(kind, folder)
    columns = _columns(kind)
    reading = iopipe.read(folder, columns=columns, on_error=policy, max_errors=len(lost))
    with reading.shuffle(1).batch(30).run() as run:
        keys = [key for batch in run for key in batch["__key__"]]
        assert run.report().errors.num_skipped == len(lost)
    names = "k{}" if kind in ("parquet", "arrow") else "{}"
    assert sorted(keys) == sorted(names.format(n) for n in range(num_rows) if n not in lost)
    with (
        pytest.raises(DataError) as caught,
        iopipe.read(folder, columns=columns).batch(7).run() as run,
    ):
        for _ in run:
            pass
    assert caught.value.sample_id in lost and caught.value.shard in map(str, _shards(folder))


def test_a_job_lists_them(dataset: tuple[str, Path], tmp_path: Path) -> None:
    kind, folder = dataset
    num_rows = len(open_source(folder))
    lost = _damaged(kind, folder)
    options = ShardOptions(format="arrow", on_error="skip", columns=_columns(kind))
    report = shard(folder, tmp_path / "out", options, num_workers=1)
    assert (report.num_samples, report.num_rejected) == (num_rows - len(lost), len(lost))
    assert verify_dataset(tmp_path / "out").is_intact
    with pytest.raises(DataError):
        shard(folder, tmp_path / "strict", ShardOptions(format="arrow", columns=_columns(kind)))


def _columns(kind: str) -> tuple[str, ...]:
    return ("bin", "n") if kind in ("parquet", "arrow") else ("image", "label", "text")


def test_a_shard_that_cannot_be_opened_is_left_out_or_raised(dataset: tuple[str, Path]) -> None:
    kind, folder = dataset
    if kind.startswith("mds"):  # its index says what is in it: its rows are what is damaged
        whole = open_source(folder)
        path = _shards(folder)[1]
        path.write_bytes(b"")
        gone = {n for n in range(len(whole)) if whole.locate(n).shard == str(path)}
        assert _prints(open_source(folder), list(range(len(whole)))).keys() == (
            set(range(len(whole))) - gone
        )
        return
    expected = _prints(open_source(folder), list(range(NUM_ROWS)))
    path = _shards(folder)[1]
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match=path.name):
        open_source(folder)
    source = open_source(folder, on_error="skip")
    assert [fault.shard for fault in source.faults] == [str(path)]
    left = [*range(30), *range(60, NUM_ROWS)]
    assert list(_prints(source, list(range(60))).values()) == [expected[n] for n in left]
    assert source.digest != open_source([p for p in _shards(folder) if p != path]).digest
    with pytest.raises(DataError):  # nothing would be left
        open_source(path, on_error="skip")


def test_verify_lists_the_rows_of_a_damaged_batch(tmp_path: Path) -> None:
    options = iopipe.readers.WriteOptions(compression="zstd", rows_per_group=5)
    with iopipe.readers.DatasetWriter(tmp_path / "d", format="arrow", options=options) as writer:
        for row in _table(0, 20).to_pylist():
            writer.write(row)
    (path,) = (tmp_path / "d").glob("*.arrow")
    _spoil(path, _packed(path, _messages(path)[1]))
    found = verify_dataset(tmp_path / "d")
    assert [damage.key for damage in found.damage] == [str(n) for n in range(5, 10)]


def test_a_storage_that_fails_is_no_damage(tmp_path: Path) -> None:
    class Failing(MemoryStore):
        is_down = False

        def read_into(self, path: str, offset: int, buffer: memoryview) -> int:
            if self.is_down:
                raise StorageError("no answer")
            return super().read_into(path, offset, buffer)

        def submit(self, requests: Any) -> Any:
            if self.is_down:
                raise StorageError("no answer")
            return super().submit(requests)

    pq.write_table(_table(0, 20), tmp_path / "x.parquet")
    store = Failing()
    store.write("memory://x.parquet", (tmp_path / "x.parquet").read_bytes())
    source = open_source("memory://x.parquet", store=store)
    store.is_down = True
    with pytest.raises(StorageError, match="no answer"):
        source.samples([3], store)
    store.is_down = False
    assert source.samples([3], store).keys == ["k3"]


def test_raw_and_compressed_shards_lie_in_one_source(tmp_path: Path) -> None:
    for name in ("none", "zstd"):
        _mds(tmp_path / name, name)
    source, store = open_source([tmp_path / "none", tmp_path / "zstd"]), PosixStore()
    assert len(source) == 60
    for ids in ([0, 31, 59, 29, 30], list(range(60))):
        labels = source.samples(ids, store).columns["label"]
        assert labels.tolist() == [-(n % 30) for n in ids]  # type: ignore[union-attr]
    assert sum(part.length for part in source.ranges(range(60))) > 0


def test_a_compressed_shard_of_another_size_is_not_read(tmp_path: Path) -> None:
    _mds(tmp_path / "d", "zstd")
    index = json.loads((tmp_path / "d" / "index.json").read_text())
    path = tmp_path / "d" / index["shards"][0]["zip_data"]["basename"]
    with open(path, "r+b") as file:
        file.truncate(1 << 40)  # a file of holes
    with pytest.raises(DataError, match="its index says") as caught:
        open_source(tmp_path / "d").samples([0], PosixStore())
    assert caught.value.row == 0
