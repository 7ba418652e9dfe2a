"""Checksums: what was written is compared, and every flipped byte is found."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xxhash
from fuzz.reseal import reseal_tar

from iopipe.errors import DataError, PipelineError
from iopipe.protocols import Store
from iopipe.readers import DatasetWriter, open_source, verify_dataset
from iopipe.readers.checksums import SUFFIX, fingerprint, load_checksums, pack_checksums
from iopipe.readers.sidecar import SUFFIX as INDEX
from iopipe.storage import MemoryStore, PosixStore

NUM_SAMPLES = 10


@pytest.fixture
def store() -> Store:
    return PosixStore()


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    with DatasetWriter(folder, max_samples=4) as writer:
        for number in range(NUM_SAMPLES):
            fields = {"txt": f"text {number}", "cls": number}
            order = fields if number % 2 else dict(reversed(fields.items()))
            writer.write({"__key__": f"k{number}", **order})
    return folder


def _flip(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


def _break_sample(dataset: Path, key: str, store: Store) -> None:
    """Flip a bit in the middle of a sample's bytes, and leave the index young enough."""
    source = open_source(dataset)
    number = [source.locate(n).key for n in range(len(source))].index(key)
    place = source.locate(number)
    _flip(Path(place.shard), place.offset)
    index = Path(f"{place.shard}.iopipe-index")
    index.write_bytes(index.read_bytes())


@pytest.mark.parametrize("verify", ["off", "shard", "sample"])
def test_an_intact_dataset_passes(dataset: Path, store: Store, verify: str) -> None:
    source = open_source(dataset, verify=verify)  # type: ignore[arg-type]
    samples = source.samples(range(NUM_SAMPLES), store)
    assert [bytes(text).decode() for text in samples.columns["txt"]] == [
        f"text {number}" for number in range(NUM_SAMPLES)
    ]


def test_a_damaged_sample_is_named_and_the_others_are_read(dataset: Path, store: Store) -> None:
    _break_sample(dataset, "k6", store)
    source = open_source(dataset, verify="sample")
    assert len(source.samples([0, 5, 7], store)) == 3
    with pytest.raises(DataError, match="checksum of its bytes differs") as caught:
        source.samples([5, 6], store)
    assert (caught.value.row, caught.value.key) == (1, "k6")
    assert str(caught.value.shard).endswith("shard-000001.tar")
    assert caught.value.offset == open_source(dataset).locate(6).offset


def test_a_sample_under_another_key_is_found(dataset: Path, store: Store) -> None:
    shard = dataset / "shard-000001.tar"
    shard.write_bytes(reseal_tar(shard.read_bytes().replace(b"k6.", b"q6.")))
    shard.with_name(shard.name + INDEX).unlink()
    source = open_source(dataset, verify="sample")
    assert source.samples([5, 7], store).keys == ["k5", "k7"]
    with pytest.raises(DataError, match="checksum of its key differs") as caught:
        source.samples([6], store)
    assert (caught.value.row, caught.value.key) == (0, "q6")
    damage = [(error.key, error.reason) for error in verify_dataset(dataset).damage]
    assert damage == [("q6", "its key is not the one that was written")]


def test_a_damaged_shard_is_named(dataset: Path, store: Store) -> None:
    _break_sample(dataset, "k6", store)
    with pytest.raises(DataError, match=r"shard-000001\.tar.*not those that were written"):
        open_source(dataset, verify="shard")
    with open(dataset / "shard-000001.tar", "ab") as file:
        file.write(b"x")
    with pytest.raises(DataError, match=r"shard-000001\.tar.*bytes, written were"):
        open_source(dataset, verify="shard")


def test_samples_are_found_by_key_where_others_are_lost(dataset: Path, store: Store) -> None:
    shard = dataset / "shard-000001.tar"
    Path(f"{shard}.iopipe-index").unlink()
    content = shard.read_bytes()
    shard.write_bytes(content[: content.index(b"k6.")])
    source = open_source(dataset, verify="sample", on_error="skip")
    keys = source.samples(range(len(source)), store).keys
    assert "k6" not in keys and {"k0", "k4", "k9"} <= set(keys)


def test_without_checksums_nothing_is_called_intact(dataset: Path) -> None:
    Path(f"{dataset}/shard-000002.tar{SUFFIX}").unlink()
    with pytest.raises(DataError, match=r"shard-000002\.tar.*no sidecar"):
        open_source(dataset, verify="sample")
    (dataset / "manifest.json").unlink()
    with pytest.raises(PipelineError, match="nothing to verify"):
        open_source(f"{dataset}/*.tar", verify="shard")


def test_some_columns_cannot_be_compared_with_the_checksum_of_all(dataset: Path) -> None:
    with pytest.raises(PipelineError, match="all fields"):
        open_source(dataset, columns=["txt"], verify="sample")


def test_the_manifest_has_the_checksums_of_the_shards(dataset: Path) -> None:
    manifest = json.loads((dataset / "manifest.json").read_text())
    for entry in manifest["shards"]:
        content = (dataset / entry["path"]).read_bytes()
        assert entry["checksum"] == xxhash.xxh3_64_hexdigest(content)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-1],
        lambda content: content + b"x",
        lambda content: content[:10],
        lambda content: b"",
        lambda content: content[:24] + b"\xff" * 8 + content[32:],
        lambda content: content[:60] + bytes([content[60] ^ 4]) + content[61:],
    ],
)
def test_a_damaged_sidecar_is_an_error(damage: Callable[[bytes], bytes]) -> None:
    store = MemoryStore()
    content = pack_checksums([1, 2, 3], [2**64 - 1, 0, 5])
    store.write("memory://s" + SUFFIX, content)
    assert load_checksums(store, "memory://s").tolist() == [[1, 2, 3], [2**64 - 1, 0, 5]]
    store.write("memory://s" + SUFFIX, damage(content))
    with pytest.raises(DataError, match="damaged"):
        load_checksums(store, "memory://s")


def test_a_fingerprint_tells_fields_apart() -> None:
    different = [
        {"a": b"xy", "b": b"z"},
        {"a": b"x", "b": b"yz"},
        {"a": b"xy", "c": b"z"},
        {"a": "xy", "b": b"z"},
        {"a": np.frombuffer(b"xy", np.uint8), "b": b"z"},
        {"a": np.frombuffer(b"xy", np.uint16), "b": b"z"},
        {"a": [b"xy"], "b": b"z"},
        {"a": b"xy", "b": None},
        {"a": b"xy"},
        {},
    ]
    assert len({fingerprint(fields) for fields in different}) == len(different)
    same = [
        {"a": b"xy", "b": np.int32(5)},
        {"b": np.array(5, ">i4"), "a": memoryview(b"xy"), "__key__": "k"},
    ]
    assert len({fingerprint(fields) for fields in same}) == 1
