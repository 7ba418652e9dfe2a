"""Token files against an index written by the letter of the format, and against numpy."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iopipe.errors import DataError, PipelineError
from iopipe.protocols import Store
from iopipe.readers import DatasetWriter, OpenOptions, open_source, verify_dataset
from iopipe.storage import MappedStore, PosixStore

_CODES = {"uint8": 1, "int32": 4, "uint16": 8}


@pytest.fixture(params=[PosixStore, MappedStore])
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    opened = request.param()
    yield opened
    opened.close()


def _megatron(prefix: Path, documents: list[list[list[int]]], dtype: str) -> None:
    """What Megatron's IndexedDatasetBuilder writes: documents of one or more sequences."""
    sequences = [sequence for document in documents for sequence in document]
    pointers, place = [], 0
    with open(f"{prefix}.bin", "wb") as file:
        for sequence in sequences:
            raw = np.array(sequence, dtype).tobytes()
            file.write(raw)
            pointers.append(place)
            place += len(raw)
    bounds = [0]
    for document in documents:
        bounds.append(bounds[-1] + len(document))
    with open(f"{prefix}.idx", "wb") as file:
        file.write(b"MMIDIDX\x00\x00")
        file.write(struct.pack("<Q", 1))
        file.write(struct.pack("<B", _CODES[dtype]))
        file.write(struct.pack("<Q", len(sequences)))
        file.write(struct.pack("<Q", len(bounds)))
        file.write(struct.pack(f"<{len(sequences)}i", *map(len, sequences)))
        file.write(struct.pack(f"<{len(sequences)}q", *pointers))
        file.write(struct.pack(f"<{len(bounds)}q", *bounds))


def _read(source: Any, store: Store, ids: Any = None) -> list[list[int]]:
    wanted = range(len(source)) if ids is None else ids
    column = source.samples(wanted, store).columns["tokens"]
    return [np.asarray(tokens).tolist() for tokens in column]


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32"])
def test_megatrons_documents_are_read(tmp_path: Path, store: Store, dtype: str) -> None:
    documents = [[[1, 2, 3]], [[4], [5, 6]], [[]], [[7, 8, 9, 10]]]
    _megatron(tmp_path / "a", documents, dtype)
    _megatron(tmp_path / "b", [[[11, 12]]], dtype)
    source = open_source([tmp_path / "a.bin", tmp_path / "b.bin"])
    expected = [[1, 2, 3], [4, 5, 6], [], [7, 8, 9, 10], [11, 12]]
    assert _read(source, store) == expected
    assert _read(source, store, [4, 0, 3, 3]) == [expected[n] for n in (4, 0, 3, 3)]
    assert source.lengths.tolist() == [3, 3, 0, 4, 2]  # type: ignore[attr-defined]
    assert str(source.schema.field("tokens").type) == f"list<item: {dtype}>"
    place = source.locate(3)
    assert (place.shard, place.offset) == (
        str(tmp_path / "a.bin"),
        6 * np.dtype(dtype).itemsize,
    )


@settings(max_examples=30, deadline=None)
@given(tokens=st.lists(st.integers(0, 4), max_size=60), window=st.integers(1, 9))
def test_flat_files_are_windows_or_documents(
    tmp_path_factory: pytest.TempPathFactory, tokens: list[int], window: int
) -> None:
    path = tmp_path_factory.mktemp("flat") / "train.bin"
    np.array(tokens, np.uint16).tofile(path)
    store = PosixStore()
    windows = _read(open_source(path, options=OpenOptions(window=window)), store)
    whole = len(tokens) // window * window
    assert windows == [tokens[n : n + window] for n in range(0, whole, window)]
    overlapping = _read(open_source(path, options=OpenOptions(window=window, stride=1)), store)
    assert overlapping == [tokens[n : n + window] for n in range(len(tokens) - window + 1)]
    documents = _read(open_source(path, options=OpenOptions(eos_token=0)), store)
    assert [token for document in documents for token in document] == tokens
    assert all(document and 0 not in document[:-1] for document in documents)
    assert all(document[-1] == 0 for document in documents[:-1])
    store.close()


def test_what_a_sample_of_a_flat_file_is_must_be_said(tmp_path: Path) -> None:
    np.arange(5, dtype=np.uint32).tofile(tmp_path / "x.bin")
    with pytest.raises(PipelineError, match="eos_token"):
        open_source(tmp_path / "x.bin")
    with pytest.raises(PipelineError, match="window is 0"):
        open_source(tmp_path / "x.bin", options=OpenOptions(window=0))
    wide = OpenOptions(window=2, token_dtype="uint32")
    assert _read(open_source(tmp_path / "x.bin", options=wide), PosixStore()) == [
        [0, 1],
        [2, 3],
    ]
    (tmp_path / "x.bin").write_bytes(b"123")
    with pytest.raises(DataError, match="3 bytes are no whole number"):
        open_source(tmp_path / "x.bin", options=wide)


def test_what_we_write_numpy_reads_by_the_index(tmp_path: Path, store: Store) -> None:
    generator = np.random.default_rng(2)
    documents = [generator.integers(0, 60_000, n, np.uint16) for n in (5, 0, 1, 700, 3)]
    with DatasetWriter(tmp_path / "d", format="tokens", max_samples=3) as writer:
        for number, tokens in enumerate(documents):
            writer.write({"__key__": f"d{number}", "tokens": tokens})
    source = open_source(tmp_path / "d", verify="sample")
    assert _read(source, store) == [tokens.tolist() for tokens in documents]
    assert verify_dataset(tmp_path / "d").is_intact
    raw = (tmp_path / "d" / "shard-000000.idx").read_bytes()
    assert raw[:9] == b"MMIDIDX\x00\x00" and struct.unpack_from("<QBQQ", raw, 9) == (1, 8, 3, 4)
    assert struct.unpack_from("<3i", raw, 34) == (5, 0, 1)
    assert struct.unpack_from("<3q", raw, 46) == (0, 10, 10)
    assert struct.unpack_from("<4q", raw, 70) == (0, 1, 2, 3)
    flat = np.fromfile(tmp_path / "d" / "shard-000000.bin", np.uint16)
    assert flat.tolist() == np.concatenate(documents[:3]).tolist()


@pytest.mark.parametrize(
    "sample",
    [
        {"tokens": np.zeros((2, 2), np.uint16)},
        {"tokens": np.zeros(2, np.uint32)},
        {"tokens": ["a"]},
        {"text": "a"},
        {"tokens": np.zeros(2, np.uint16), "text": "a"},
    ],
)
def test_samples_that_are_no_tokens_are_refused(tmp_path: Path, sample: dict[str, Any]) -> None:
    with pytest.raises(DataError), DatasetWriter(tmp_path, format="tokens") as writer:
        writer.write({"__key__": "k", **sample})


def _put(raw: bytes, offset: int, kind: str, value: int) -> bytes:
    packed = struct.pack(f"<{kind}", value)
    return raw[:offset] + packed + raw[offset + len(packed) :]


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: raw[:20],
        lambda raw: raw[:-1],
        lambda raw: raw + b"x",
        lambda raw: _put(raw, 0, "B", 0),
        lambda raw: _put(raw, 9, "Q", 2),
        lambda raw: _put(raw, 17, "B", 99),
        lambda raw: _put(raw, 18, "Q", 1 << 60),
        lambda raw: _put(raw, 34, "i", -1),
        lambda raw: _put(raw, 34, "i", 1 << 30),
        lambda raw: _put(raw, 42, "q", -8),
        lambda raw: _put(raw, 42, "q", 1 << 62),
        lambda raw: _put(raw, 42, "q", 1),
        lambda raw: _put(raw, 58, "q", 1),
        lambda raw: _put(raw, 66, "q", 5),
        lambda raw: _put(raw, 66, "q", -1),
    ],
)
def test_a_hostile_index_is_an_error(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    _megatron(tmp_path / "a", [[[1, 2, 3]], [[4, 5]]], "uint16")
    index = tmp_path / "a.idx"
    index.write_bytes(damage(index.read_bytes()))
    with pytest.raises(DataError):
        open_source(tmp_path / "a.bin")


def test_a_damaged_file_is_left_out_or_raised(tmp_path: Path, store: Store) -> None:
    for name in "abc":
        _megatron(tmp_path / name, [[[1, 2, 3]], [[4, ord(name)]]], "uint16")
    with open(tmp_path / "b.bin", "r+b") as file:
        file.truncate(4)
    paths = [tmp_path / f"{name}.bin" for name in "abc"]
    with pytest.raises(DataError, match=r"b\.idx"):
        open_source(paths)
    source = open_source(paths, on_error="skip")
    assert len(source.faults) == 1 and source.shards == tuple(map(str, paths))
    assert _read(source, store) == [[1, 2, 3], [4, ord("a")], [1, 2, 3], [4, ord("c")]]
    assert source.locate(2).shard == str(paths[2])
    windows = open_source(paths, on_error="skip", options=OpenOptions(window=2))
    assert len(windows) == 2 + 2
