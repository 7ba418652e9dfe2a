"""TFRecord against protobuf's own messages, built from the published schema."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import given, settings
from hypothesis import strategies as st

from iopipe.errors import DataError
from iopipe.readers import DatasetWriter, open_source, verify_dataset
from iopipe.readers.example import pack_example, parse_example
from iopipe.readers.tfrecord import _masked_crc
from iopipe.storage import PosixStore


def _example_class() -> Any:
    """tensorflow.Example by tensorflow/core/example/{example,feature}.proto."""
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="t", syntax="proto3")
    kinds = descriptor_pb2.FieldDescriptorProto

    def message(name: str, *fields: tuple[str, int, int, str, int]) -> Any:
        added = file.message_type.add(name=name)
        for field, number, kind, type_name, label in fields:
            made = added.field.add(name=field, number=number, type=kind, label=label)
            if type_name:
                made.type_name = type_name
        return added

    one, many = kinds.LABEL_OPTIONAL, kinds.LABEL_REPEATED
    message("BytesList", ("value", 1, kinds.TYPE_BYTES, "", many))
    message("FloatList", ("value", 1, kinds.TYPE_FLOAT, "", many))
    message("Int64List", ("value", 1, kinds.TYPE_INT64, "", many))
    feature = message(
        "Feature",
        ("bytes_list", 1, kinds.TYPE_MESSAGE, ".t.BytesList", one),
        ("float_list", 2, kinds.TYPE_MESSAGE, ".t.FloatList", one),
        ("int64_list", 3, kinds.TYPE_MESSAGE, ".t.Int64List", one),
    )
    feature.oneof_decl.add(name="kind")
    for field in feature.field:
        field.oneof_index = 0
    features = message(
        "Features", ("feature", 1, kinds.TYPE_MESSAGE, ".t.Features.FeatureEntry", many)
    )
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=kinds.TYPE_STRING, label=one)
    entry.field.add(
        name="value", number=2, type=kinds.TYPE_MESSAGE, type_name=".t.Feature", label=one
    )
    message("Example", ("features", 1, kinds.TYPE_MESSAGE, ".t.Features", one))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("t.Example"))


EXAMPLE = _example_class()
_INTEGERS = st.lists(st.integers(-(1 << 63), (1 << 63) - 1), max_size=5)
_FLOATS = st.lists(st.floats(width=32, allow_nan=False), max_size=5)
_BYTES = st.lists(st.binary(max_size=20), min_size=1, max_size=3)
_NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)


def _theirs(fields: dict[str, list[Any]]) -> bytes:
    message = EXAMPLE()
    for name, values in fields.items():
        feature = message.features.feature[name]
        if values and isinstance(values[0], bytes):
            feature.bytes_list.value.extend(values)
        elif values and isinstance(values[0], float):
            feature.float_list.value.extend(values)
        else:
            feature.int64_list.value.extend(values)
            feature.int64_list.SetInParent()
    return bytes(message.SerializeToString(deterministic=True))


def _plain(value: Any) -> list[Any]:
    if isinstance(value, memoryview):
        return [bytes(value)]
    if isinstance(value, list):
        return [bytes(item) for item in value]
    return list(value.tolist())


@settings(max_examples=200, deadline=None)
@given(fields=st.dictionaries(_NAMES, _INTEGERS | _FLOATS | _BYTES, max_size=4))
def test_examples_of_protobuf_are_read(fields: dict[str, list[Any]]) -> None:
    found = parse_example(memoryview(_theirs(fields)))
    assert {name: _plain(value) for name, value in found.items()} == fields


@settings(max_examples=200, deadline=None)
@given(fields=st.dictionaries(_NAMES, _INTEGERS | _FLOATS | _BYTES, min_size=1, max_size=4))
def test_protobuf_reads_our_examples(fields: dict[str, list[Any]]) -> None:
    arrays = {
        name: np.array(values, np.int64) if not values else values
        for name, values in fields.items()
    }
    ours, theirs = pack_example(arrays), _theirs(fields)
    assert EXAMPLE.FromString(ours) == EXAMPLE.FromString(theirs)
    assert sorted(ours) == sorted(theirs)  # maps have no order, but the bytes are the same


def test_numbers_that_are_not_packed_are_read() -> None:
    """Writers of proto2 wrote one field a number."""
    body = b"\x08\x01\x08\xac\x02"
    feature = b"\x1a" + bytes([len(body)]) + body
    entry = b"\x0a\x01x\x12" + bytes([len(feature)]) + feature
    features = b"\x0a" + bytes([len(entry)]) + entry
    example = b"\x0a" + bytes([len(features)]) + features
    assert parse_example(memoryview(example))["x"].tolist() == [1, 300]  # type: ignore[union-attr]
    assert list(EXAMPLE.FromString(example).features.feature["x"].int64_list.value) == [1, 300]


def _masked(content: bytes) -> int:
    crc = google_crc32c.value(content)
    return ((crc >> 15 | (crc << 17 & 0xFFFFFFFF)) + 0xA282EAD8) & 0xFFFFFFFF


def _record(content: bytes) -> bytes:
    length = struct.pack("<Q", len(content))
    return (
        length + struct.pack("<I", _masked(length)) + content + struct.pack("<I", _masked(content))
    )


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    records = [
        _theirs({"image": [bytes([n]) * 50], "label": [n, -n], "score": [n / 2]}) for n in range(8)
    ]
    path = tmp_path / "x.tfrecord"
    path.write_bytes(b"".join(map(_record, records)))
    return path


def test_the_masked_crc_is_the_published_one() -> None:
    """RFC 3720, B.4: CRC-32C of 32 zero bytes is 0x8a9136aa."""
    assert google_crc32c.value(bytes(32)) == 0x8A9136AA
    assert (
        _masked_crc(bytes(32))
        == (0x8A9136AA >> 15 | 0x8A9136AA << 17 & 0xFFFFFFFF) + (0xA282EAD8) & 0xFFFFFFFF
    )


def test_records_are_read_by_id(shard: Path) -> None:
    store = PosixStore()
    for _ in range(2):  # built, then from its index
        source = open_source(shard)
        assert (len(source), source.columns) == (8, ("image", "label", "score"))
        samples = source.samples([5, 0, 5], store)
        images = [bytes(image) for image in samples.columns["image"]]
        assert images == [b"\5" * 50, bytes(50), b"\5" * 50]
        assert [label.tolist() for label in samples.columns["label"]] == [[5, -5], [0, 0], [5, -5]]
        assert [score.tolist() for score in samples.columns["score"]] == [[2.5], [0.0], [2.5]]
        assert (shard.parent / "x.tfrecord.iopipe-index").exists()
    assert open_source(shard, columns=["label"]).samples([1], store).columns.keys() == {"label"}


def test_what_we_write_protobuf_reads(tmp_path: Path) -> None:
    with DatasetWriter(tmp_path / "d", format="tfrecord", max_samples=2) as writer:
        for number in range(3):
            writer.write(
                {"__key__": f"k{number}", "jpg": b"x" * number, "cls": number, "box": [0.5, 1.0]}
            )
    raw = (tmp_path / "d" / "shard-000000.tfrecord").read_bytes()
    (length,) = struct.unpack_from("<Q", raw)
    assert raw[: 16 + length] == _record(raw[12 : 12 + length])
    features = EXAMPLE.FromString(raw[12 : 12 + length]).features.feature
    assert features["jpg"].bytes_list.value == [b""]
    assert features["cls"].int64_list.value == [0]
    assert features["box"].float_list.value == [0.5, 1.0]
    source = open_source(tmp_path / "d", verify="sample")
    samples = source.samples(range(3), PosixStore())
    assert samples.keys == ["k0", "k1", "k2"]
    assert [int(label[0]) for label in samples.columns["cls"]] == [0, 1, 2]
    assert verify_dataset(tmp_path / "d").is_intact
    with pytest.raises(DataError, match=r"no tf\.train\.Example|cannot be"):
        with DatasetWriter(tmp_path / "e", format="tfrecord") as writer:
            writer.write({"__key__": "k", "x": {"a": 1}})


def _flip(content: bytes, offset: int) -> bytes:
    return content[:offset] + bytes([content[offset] ^ 1]) + content[offset + 1 :]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda raw: _flip(raw, 3), "record's length is wrong"),
        (lambda raw: raw[:-3], "past the end"),
        (lambda raw: raw + b"12345", "inside the length"),
    ],
)
def test_a_damaged_file_is_an_error(
    shard: Path, damage: Callable[[bytes], bytes], reason: str
) -> None:
    shard.write_bytes(damage(shard.read_bytes()))
    with pytest.raises(DataError, match=reason) as caught:
        open_source(shard, format="tfrecord")
    assert caught.value.shard == str(shard)


def test_a_damaged_record_is_a_damaged_sample(shard: Path) -> None:
    content = shard.read_bytes()
    source, store = open_source(shard), PosixStore()
    shard.write_bytes(_flip(content, source.locate(3).offset + 40))
    with pytest.raises(DataError, match="CRC-32C of the record") as caught:
        source.samples([2, 3, 4], store)
    assert caught.value.row == 1
    assert len(source.samples([0, 1, 2, 4], store)) == 4
    shard.write_bytes(_record(b"\xff\xff") + content)
    with pytest.raises(DataError, match=r"no tf\.train\.Example"):
        open_source(shard).samples([0], store)
