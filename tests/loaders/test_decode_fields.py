"""Fields that are no images, and options that no decoder could follow."""

from __future__ import annotations

import io
import json
import random
import struct
from typing import Any

import numpy as np
import pytest
from fakes.pictures import samples_of as _samples

from iopipe.errors import DataError, PipelineError
from iopipe.loaders.decode import make_decoder
from iopipe.protocols import Column, Ragged, Samples
from iopipe.stages import ImageOptions


def _decoded(content: bytes, name: str = "jpg", **options: Any) -> Any:
    samples = _samples([content], name=name)
    return make_decoder(ImageOptions(**options))(samples).columns[name][0]


def test_fields_are_decoded_by_their_extension() -> None:
    array = np.arange(6.0).reshape(2, 3)
    raw = io.BytesIO()
    np.save(raw, array)
    columns: dict[str, Column] = {
        "cls": [b"3", b"-4"],
        "meta.json": [b'{"a": [1]}', b"null"],
        "txt": ["grün".encode(), b""],
        "npy": [memoryview(raw.getvalue())] * 2,
        "bin": [b"\x00", b"\x01"],
        "x": np.ones(2),
        "caption": ["kept", "as it is"],
    }
    samples = Samples(ids=np.arange(2), keys=["a", "b"], columns=columns)
    decoded = make_decoder(ImageOptions())(samples).columns
    assert decoded["cls"].tolist() == [3, -4]  # type: ignore[union-attr]
    assert decoded["meta.json"] == [{"a": [1]}, None]
    assert decoded["txt"] == ["grün", ""]
    assert np.array_equal(decoded["npy"], [array, array])
    assert all(decoded[name] is columns[name] for name in ("bin", "x", "caption"))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("cls", b"seven"),
        ("cls", b"9" * 30),
        ("json", b"{"),
        ("txt", b"\xff\xfe\xfd"),
        ("npy", b"\x93NUMPY"),
        ("npy", b""),
    ],
)
def test_a_field_that_cannot_be_decoded_is_damage(name: str, content: bytes) -> None:
    good = {"cls": b"1", "json": json.dumps({}).encode(), "txt": b"x"}.get(name)
    contents = [good, content] if good else [content]
    with pytest.raises(DataError, match="cannot be decoded") as caught:
        make_decoder(ImageOptions())(_samples(contents, name=name))
    assert caught.value.row == len(contents) - 1


def test_pickled_arrays_are_refused() -> None:
    raw = io.BytesIO()
    np.save(raw, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="allow_pickle"):
        _decoded(raw.getvalue(), "npy")


def test_an_archive_or_a_claim_of_petabytes_is_damage_too() -> None:
    archive, huge = io.BytesIO(), io.BytesIO()
    np.savez(archive, a=np.ones(3))
    np.lib.format.write_array_header_1_0(
        huge, {"descr": "<f8", "fortran_order": False, "shape": (1 << 50,)}
    )
    for content in (archive.getvalue(), huge.getvalue()):
        with pytest.raises(DataError, match="field 'npy'"):
            _decoded(content, "npy")


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': (), 'fortran_order': False, 'shape': (1,)}",
        "{'descr': ('<f8',), 'fortran_order': False, 'shape': (1,)}",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (True,)}",
        f"{{'descr': '<f8', 'fortran_order': False, 'shape': (0, {1 << 64})}}",
        f"{{'descr': '<f8', 'fortran_order': False, 'shape': ({-1 << 70},)}}",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (-1,)}",
        "{b'descr': '<f8', 'fortran_order': False, 'shape': (1,)}",
        "-" * 9000 + "1",
    ],
    ids=range(8),
)
def test_a_header_that_numpy_stumbles_over_is_damage(header: str) -> None:
    raw = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + bytes(16)
    with pytest.raises(DataError, match="field 'npy'") as caught:
        _decoded(raw, "npy")
    assert caught.value.row == 0


def test_flipped_bytes_give_an_array_or_damage_and_nothing_else() -> None:
    raw = io.BytesIO()
    np.save(raw, np.arange(6.0).reshape(2, 3))
    generator = random.Random(3)
    num_damaged = 0
    for _ in range(500):
        content = bytearray(raw.getvalue())
        for _ in range(generator.choice((1, 3))):
            content[generator.randrange(len(content))] = generator.choice(b"\0\xff9(' ")
        try:
            assert isinstance(_decoded(bytes(content), "npy"), np.ndarray | np.generic)
        except DataError:
            num_damaged += 1
    assert 0 < num_damaged < 500


def test_rows_of_numbers_are_not_taken_for_text() -> None:
    tokens = Ragged(np.arange(10, dtype=np.int32), np.array([0, 4]), np.array([4, 6]))
    samples = Samples(ids=np.arange(2), keys=["a", "b"], columns={"text": tokens})
    assert make_decoder(ImageOptions())(samples).columns["text"] is tokens


@pytest.mark.parametrize(
    "options",
    [
        {"crop": "random"},
        {"fidelity": "scaled"},
        {"size": (0, 5)},
        {"size": (8, 8), "crop": "top"},
        {"size": (8, 8), "fidelity": "best"},
        {"size": (8, 8), "scale": (0.5, 0.1)},
    ],
)
def test_options_are_checked_when_built(options: dict[str, Any]) -> None:
    with pytest.raises(PipelineError):
        make_decoder(ImageOptions(**options))
