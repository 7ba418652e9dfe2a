"""Ledgers come back as they were written, wherever they were cut, in few bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iopipe.errors import DataError, StorageError
from iopipe.ledger import Header, LedgerReader, LedgerWriter, Record

IDENTITY = {"version": 1, "dataset": "d", "shuffle": "full", "seed": 3}


def header_of(num_samples: int, **change: Any) -> Header:
    fields: dict[str, Any] = {
        "identity": IDENTITY,
        "num_samples": num_samples,
        "rank": 0,
        "world": 1,
        "tail": "drop",
        "batch_size": 4,
        "drop_last": False,
        "in_order": True,
        "entry": {"epoch": 0, "position": 0, "pending": []},
    }
    return Header(**{**fields, **change})


def record_of(ids: list[int], left_out: list[int], **change: int) -> Record:
    numbers = {"epoch": 0, "first": 0, "num_planned": len(ids) + len(left_out), "position": 0}
    return Record(
        **{**numbers, **change},
        ids=np.array(ids, np.int64),
        left_out=np.array(left_out, np.int64),
    )


def plain(record: Record) -> tuple[Any, ...]:
    numbers = record.epoch, record.first, record.num_planned, record.position
    return *numbers, record.ids.tolist(), record.left_out.tolist()


def only(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


@settings(max_examples=60, deadline=None)
@given(
    num_samples=st.integers(1, 2**62) | st.integers(1, 70),
    data=st.data(),
)
def test_what_was_written_is_read(
    num_samples: int, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("ledger")
    ids = st.lists(st.integers(0, num_samples - 1), max_size=9)
    number = st.integers(0, 2**63)
    record = st.builds(
        record_of, ids, ids, epoch=number, first=number, num_planned=number, position=number
    )
    records = data.draw(st.lists(record, max_size=5))
    header = header_of(num_samples, rank=7)
    with LedgerWriter(folder, header) as ledger:
        for one in records:
            ledger.append(one)
    found = LedgerReader(only(folder))
    assert found.header == header
    assert [plain(one) for one in found.records()] == [plain(one) for one in records]
    assert found.num_torn_bytes == 0


def test_a_file_cut_anywhere_gives_the_records_before_the_cut(tmp_path: Path) -> None:
    with LedgerWriter(tmp_path / "whole", header_of(1000)) as ledger:
        ends = [only(tmp_path / "whole").stat().st_size]
        for number in range(4):
            ledger.append(record_of([number, 999], [5] * number))
            ends.append(only(tmp_path / "whole").stat().st_size)
    content = only(tmp_path / "whole").read_bytes()
    cut = tmp_path / "cut.ledger"
    for size in range(ends[0], len(content) + 1):
        cut.write_bytes(content[:size])
        reader = LedgerReader(cut)
        found = list(reader.records())
        assert len(found) == sum(end <= size for end in ends[1:])
        assert reader.num_torn_bytes == size - max(end for end in ends if end <= size)
    for size in range(ends[0]):
        cut.write_bytes(content[:size])
        with pytest.raises(DataError, match="no whole header"):
            LedgerReader(cut)


def test_a_flipped_bit_ends_what_is_believed(tmp_path: Path) -> None:
    with LedgerWriter(tmp_path / "whole", header_of(1000)) as ledger:
        for number in range(4):
            ledger.append(record_of([number, 999], []))
    content = bytearray(only(tmp_path / "whole").read_bytes())
    content[-1] ^= 4
    damaged = tmp_path / "damaged.ledger"
    damaged.write_bytes(content)
    reader = LedgerReader(damaged)
    assert len(list(reader.records())) == 3 and reader.num_torn_bytes


def test_ids_of_a_million_take_less_than_three_bytes(tmp_path: Path) -> None:
    ids = np.random.default_rng(0).permutation(1_000_000)[: 256 * 20].reshape(20, 256)
    with LedgerWriter(tmp_path, header_of(1_000_000)) as ledger:
        begin = only(tmp_path).stat().st_size
        for row in ids:
            ledger.append(record_of(row.tolist(), []))
    assert (only(tmp_path).stat().st_size - begin) / ids.size < 3


@pytest.mark.parametrize(
    ("change", "said"),
    [({"version": 9}, "version 9, known is 1"), ({"more": 1}, "header is no header")],
)
def test_other_versions_are_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    writer = LedgerWriter(tmp_path, header_of(10))
    writer.close()
    path = only(tmp_path)
    import json
    import struct

    import google_crc32c

    payload = path.read_bytes()[8:]
    changed = json.dumps({**json.loads(payload), **change}).encode()
    frame = struct.pack("<II", len(changed), google_crc32c.value(changed))
    path.write_bytes(frame + changed)
    with pytest.raises(DataError, match=said):
        LedgerReader(path)


def test_a_sample_that_the_dataset_does_not_have_is_named(tmp_path: Path) -> None:
    with LedgerWriter(tmp_path, header_of(5)) as ledger:
        ledger.append(record_of([7], []))
    with pytest.raises(DataError, match="a record names sample 7 of 5"):
        list(LedgerReader(only(tmp_path)).records())


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot begin a ledger in"):
        LedgerWriter(tmp_path / "file", header_of(5))


def test_a_full_disk_is_named() -> None:
    """/dev/full refuses every write."""
    folder = Path("/dev")
    header = header_of(5)
    writer = LedgerWriter.__new__(LedgerWriter)
    writer._bits = header.bits
    writer._file = open(folder / "full", "wb", buffering=0)
    with pytest.raises(StorageError, match="cannot write the ledger '/dev/full': No space left"):
        writer.append(record_of([1], []))
    writer.close()
