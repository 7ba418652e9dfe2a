"""Damaged WebDataset shards: right samples, and a fault that names what is missing."""

from __future__ import annotations

import tarfile

import pytest
from fakes.tars import all_rows, some_members, source_of, tar_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from iopipe.errors import DataError
from iopipe.readers import WebDatasetSource
from iopipe.readers.index import build_index
from iopipe.storage import MemoryStore


@pytest.mark.parametrize(
    ("members", "key", "reason"),
    [
        ([("1.jpg", b"a"), ("1.cls", b"1"), ("2.jpg", b"b")], "2", "no member 'cls'"),
        ([("1.jpg", b"a"), ("2.jpg", b"b"), ("1.jpg", b"c")], "1", "same key"),
        ([("1.jpg", b"a"), ("1.jpg", b"c"), ("2.jpg", b"b")], "1", "two members 'jpg'"),
        ([("1.jpg", b"a"), ("2.jpg", b""), ("3.jpg", b"b")], "2", "no bytes"),
    ],
)
def test_damaged_samples_are_named_or_left_out(
    members: list[tuple[str, bytes]], key: str, reason: str
) -> None:
    with pytest.raises(DataError, match=rf"shard 'shard.tar', offset \d+, key '{key}'.*{reason}"):
        source_of(tar_of(members))
    source, memory = source_of(tar_of(members), on_error="skip")
    assert [fault.key for fault in source.faults] == [key]
    good = {name.split(".")[0] for name, _ in members} - {key}
    kept = [sample["__key__"] for sample in all_rows(source, memory)]
    assert set(kept) >= good
    assert len(kept) == len(set(kept))


def test_a_shard_cut_anywhere_gives_right_samples_and_a_fault() -> None:
    members = some_members(6, seed=2)
    content = tar_of(members, tarfile.USTAR_FORMAT)
    whole = {name: data for name, data in members}
    end_of_data = sum(512 + -(-len(data) // 512) * 512 for _, data in members)
    for cut in [*range(0, end_of_data, 512), *range(100, end_of_data, 1777)]:
        source, memory = source_of(content[:cut], on_error="skip")
        assert source.faults, cut
        for sample in all_rows(source, memory):
            assert {f"{sample['__key__']}.{n}": sample[n] for n in source.columns}.items() <= (
                whole.items()
            )
        with pytest.raises(DataError):
            source_of(content[:cut])


def test_a_shard_that_shrinks_after_it_was_indexed_is_an_error_that_names_the_row() -> None:
    content = tar_of(some_members(6))
    source, memory = source_of(content)
    memory.write("shard.tar", content[:6000])
    with pytest.raises(DataError, match="became shorter") as caught:
        source.samples(range(6), memory)
    assert caught.value.row is not None
    assert caught.value.shard == "shard.tar"


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.integers(0, 20_000), st.integers(0, 255)), max_size=6))
def test_flipped_bytes_give_samples_of_bounded_size_or_a_typed_error(
    flips: list[tuple[int, int]],
) -> None:
    content = bytearray(tar_of(some_members(5), tarfile.PAX_FORMAT))
    for place, value in flips:
        content[place % len(content)] = value
    memory = MemoryStore()
    memory.write("shard.tar", bytes(content))
    index = build_index(memory, "shard.tar")
    present = index.lengths > 0
    assert (index.offsets[present] + index.lengths[present] <= len(content)).all()
    try:
        source = WebDatasetSource(["shard.tar"], memory, on_error="skip")
        all_rows(source, memory)
    except DataError:
        return
