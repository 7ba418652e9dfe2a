"""Collating: the same numbers as torch's own collate, in one flat payload."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

from iopipe.errors import DataError, PipelineError
from iopipe.loaders.arena import ALIGNMENT_BYTES
from iopipe.loaders.collate import pack, pack_columns, views
from iopipe.protocols import Column, Ragged, Samples


def _samples(columns: dict[str, Column]) -> Samples:
    num_rows = len(next(iter(columns.values())))
    return Samples(
        ids=np.arange(num_rows), keys=[str(row) for row in range(num_rows)], columns=columns
    )


def _collated(*chunks: Samples) -> dict[str, Any]:
    packed = pack(chunks)
    payload = np.full(packed.num_bytes, 0xA5, np.uint8)
    packed.write(payload)
    return {**packed.lists, **views(torch.from_numpy(payload), packed.layout)}


@pytest.mark.parametrize("dtype", ["u1", "i2", "i4", "i8", "f2", "f4", "f8", "?"])
def test_arrays_equal_torchs_default_collate(dtype: str) -> None:
    generator = np.random.default_rng(7)
    rows = (generator.random((11, 3, 5)) * 200).astype(dtype)
    ours = _collated(_samples({"x": rows[:4]}), _samples({"x": rows[4:]}))["x"]
    theirs = default_collate([torch.from_numpy(row) for row in rows])
    assert ours.dtype == theirs.dtype
    assert torch.equal(ours, theirs)


def test_numbers_equal_torchs_default_collate() -> None:
    rows = [{"a": 1, "b": 0.5}, {"a": 2, "b": -1.5}, {"a": 3, "b": 2.0}]
    columns: dict[str, Column] = {name: [row[name] for row in rows] for name in ("a", "b")}
    ours, theirs = _collated(_samples(columns)), default_collate(rows)
    assert ours["a"].dtype == theirs["a"].dtype
    assert torch.equal(ours["a"], theirs["a"])
    assert ours["b"].tolist() == theirs["b"].tolist()


def test_what_is_no_number_stays_a_list() -> None:
    values = np.frombuffer(b"abcdef", np.uint8)
    ragged = Ragged(values, np.array([4, 0]), np.array([2, 3]))
    batch = _collated(_samples({"raw": ragged, "text": ["x", "y"], "json": [{"a": 1}, {}]}))
    assert batch == {
        "__key__": ["0", "1"],
        "raw": [b"ef", b"abc"],
        "text": ["x", "y"],
        "json": [{"a": 1}, {}],
    }


def test_every_tensor_is_aligned_and_inside_the_payload() -> None:
    columns = {"a": np.ones((3, 7), np.uint8), "b": np.ones(3), "c": np.ones((3, 1), np.int16)}
    packed = pack([_samples(columns)])
    ends = [place.offset + place.num_bytes for place in packed.layout.values()]
    starts = [place.offset for place in packed.layout.values()]
    assert all(start % ALIGNMENT_BYTES == 0 for start in starts)
    assert all(end <= start for end, start in zip(ends, starts[1:], strict=False))
    assert packed.num_bytes == ends[-1]


@pytest.mark.parametrize("cut", [1, 2, 3])
@pytest.mark.parametrize(
    "rows",
    [
        [1, 2, 0.5, 4],
        [True, 7, False, True],
        [np.float32(1), np.float64(0.1), np.float32(3), np.float32(4)],
        [np.uint8(9), np.int16(-3), np.uint8(200), np.uint8(1)],
    ],
)
def test_where_a_batch_is_cut_does_not_show_in_its_type(rows: list[Any], cut: int) -> None:
    whole = _collated(_samples({"x": rows}))["x"]
    ours = _collated(_samples({"x": rows[:cut]}), _samples({"x": rows[cut:]}))["x"]
    assert ours.dtype == whole.dtype and torch.equal(ours, whole)


def test_rows_of_different_shapes_are_refused_with_the_fix() -> None:
    images: Column = [np.zeros((2, 3, 3)), np.zeros((4, 3, 3))]
    with pytest.raises(PipelineError, match=r"decode\(size=...\)"):
        pack([_samples({"jpg": images})])
    with pytest.raises(PipelineError, match=r"decode\(size=...\)"):
        pack([_samples({"jpg": np.zeros((1, 2))}), _samples({"jpg": np.zeros((1, 3))})])


def test_chunks_that_lost_all_rows_are_passed_over() -> None:
    empty = Samples(ids=np.arange(0), keys=[], columns={})
    assert _collated(empty, _samples({"x": np.ones(2)}))["x"].tolist() == [1, 1]
    with pytest.raises(DataError, match="every sample of a batch"):
        pack([empty])


def test_tensors_of_a_users_function_are_packed_as_they_are() -> None:
    columns = {"__key__": ["a", "b"], "x": torch.arange(6).view(2, 3).t(), "y": np.ones(2)}
    packed = pack_columns(columns)
    payload = np.empty(packed.num_bytes, np.uint8)
    packed.write(payload)
    result = views(torch.from_numpy(payload), packed.layout)
    assert torch.equal(result["x"], torch.arange(6).view(2, 3).t())
    assert packed.lists == {"__key__": ["a", "b"]}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2])
def test_types_that_numpy_has_not_are_packed_as_well(dtype: torch.dtype) -> None:
    values = torch.linspace(-3, 3, 12).view(3, 4).to(dtype).t()
    packed = pack_columns({"__key__": list("abcd"), "n": np.ones(4, np.int16), "x": values})
    payload = np.full(packed.num_bytes, 0xA5, np.uint8)
    packed.write(payload)
    found = views(torch.from_numpy(payload), packed.layout)["x"]
    assert found.dtype == dtype and torch.equal(found.float(), values.float())


@pytest.mark.parametrize("dtype", ["U3", "M8[s]", ">f4", "V2"])
def test_arrays_that_make_no_tensor_are_refused_by_name(dtype: str) -> None:
    with pytest.raises(PipelineError, match=r"column .x. holds .*of which torch has no tensors"):
        pack([_samples({"x": np.zeros(3, dtype)})])


def test_text_that_numpy_made_stays_a_list() -> None:
    assert _collated(_samples({"x": [*np.array(["a", "bc"])]}))["x"] == ["a", "bc"]
