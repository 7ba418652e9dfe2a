"""Encoded columns: numpy's unpacked values, at every width, start and budget."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from iopipe.errors import DataError, PipelineError
from iopipe.kernels.columns import KERNEL, Affine, EncodedColumn, decode_column, problem_of
from iopipe.kernels.columns_twin import decode_column as twin
from iopipe.kernels.packed import Packed, parse_runs
from iopipe.kernels.tuning import Config

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
AFFINE = Affine(mean=-1.5, inv_std=0.75, fill=3.0)
Array = np.ndarray[Any, Any]


def _config(groups: int = 64, programs: int = 3, shared: int = 1) -> Config:
    return Config(blocks={"GROUPS": groups, "PROGRAMS": programs, "SHARED": shared})


def _packed(values: Array, width: int, *, skipped: int = 0, first: int = 0) -> Packed:
    """From `skipped` bytes into a buffer on; `first` values of it come before."""
    bits = (values.astype(np.uint64)[:, None] >> np.arange(width, dtype=np.uint64)) & np.uint64(1)
    content = np.packbits(bits.astype(np.uint8).ravel(), bitorder="little")
    buffer = np.concatenate([np.full(skipped, 0xA5, np.uint8), content])
    data = torch.from_numpy(buffer).to(DEVICE)[skipped:]
    return Packed(data=data, bit_width=width, num_values=len(values) - first, first=first)


def _hybrid(runs: list[tuple[bool, Array]], width: int) -> Packed:
    """Runs as the format has them: (packed, values of whole groups) or (repeated, values)."""
    page = b""
    for is_packed, values in runs:
        header = len(values) // 8 << 1 | 1 if is_packed else len(values) << 1
        while header >= 128:
            page += bytes([header & 127 | 128])
            header >>= 7
        page += bytes([header])
        if is_packed:
            page += _packed(values, width).data.cpu().numpy().tobytes()
        else:
            page += int(values[0]).to_bytes((width + 7) // 8, "little")
    count = sum(len(values) for _, values in runs)
    table = torch.from_numpy(parse_runs(page, bit_width=width, num_values=count))
    data = torch.frombuffer(bytearray(page), dtype=torch.uint8).to(DEVICE)
    return Packed(data=data, bit_width=width, num_values=count, runs=table.to(DEVICE))


def _codes(count: int, width: int) -> Array:
    return np.random.default_rng(count + width).integers(0, 2**width, count, dtype=np.uint64)


def _reference(values: Array, valid: Array) -> Array:
    """float32, step by step."""
    filled = np.where(valid, values.astype(np.float32), np.float32(AFFINE.fill))
    return (filled - np.float32(AFFINE.mean)) * np.float32(AFFINE.inv_std)


@pytest.mark.parametrize("width", [1, 2, 3, 5, 7, 8, 9, 12, 13, 16, 17, 24, 31, 32])
def test_every_width_at_odd_starts(width: int) -> None:
    codes, first, count = _codes(1100, width), 3, 1097
    valid = np.random.default_rng(width).random(1100) < 0.6
    column = EncodedColumn(
        codes=_packed(codes, width, skipped=width % 4, first=first),
        validity=_packed(valid, 1, skipped=(width + 1) % 4, first=first),
    )
    got = decode_column(column, dtype=torch.float32, affine=AFFINE, config=_config())
    assert np.array_equal(got.cpu().numpy(), _reference(codes[first:], valid[first:]))
    ids = decode_column(column, dtype=torch.int64, affine=Affine(fill=-9), config=_config())
    expected = np.where(valid[first:], codes[first:].astype(np.int64), -9)
    assert len(got) == count and np.array_equal(ids.cpu().numpy(), expected)


@settings(max_examples=20, deadline=None)
@given(
    count=st.integers(0, 1400),
    width=st.integers(1, 12),
    shared=st.integers(0, 1),
    compact=st.booleans(),
    max_programs=st.none() | st.integers(1, 4),
)
def test_any_shape_agrees_with_numpy(
    count: int, width: int, shared: int, compact: bool, max_programs: int | None
) -> None:
    valid = np.random.default_rng(count).random(count) < 0.5
    number = np.cumsum(valid) - 1 if compact else np.arange(count)
    codes = _codes(max(1, int(valid.sum()) if compact else count), width)
    entries = np.random.default_rng(width).standard_normal(2**width).astype(np.float32)
    column = EncodedColumn(
        codes=replace(_packed(codes, width, skipped=1), num_values=len(codes) if count else 0),
        validity=_packed(valid, 1, skipped=2),
        compact=compact,
        dictionary=torch.from_numpy(entries).to(DEVICE),
    )
    guarded = torch.full((count + 40,), 1e30, device=DEVICE)
    out = guarded[20 : 20 + count]
    answer = decode_column(
        column, dtype=torch.float32, affine=AFFINE, out=out, max_programs=max_programs,
        config=_config(shared=shared),
    )  # fmt: skip
    expected = _reference(entries[codes[number.clip(0, None)].astype(int)], valid)
    assert answer is out and np.array_equal(out.cpu().numpy(), expected)
    assert (guarded[:20] == 1e30).all() and (guarded[20 + count :] == 1e30).all()
    assert torch.equal(twin(column, dtype=torch.float32, affine=AFFINE), out)


def test_runs_of_every_kind() -> None:
    """Repeated values of odd counts, packed groups between, headers of two bytes."""
    codes = _codes(2000, 11) % 700
    runs = [
        (False, codes[:1].repeat(1)),
        (True, codes[8:16]),
        (False, codes[20:21].repeat(613)),
        (True, codes[100:1300]),
        (True, codes[100:108]),
        (True, codes[300:308]),
        (False, codes[30:31].repeat(5)),
    ]
    values = np.concatenate([part for _, part in runs])
    entries = np.arange(700, dtype=np.int32) * 3 - 1000
    column = EncodedColumn(codes=_hybrid(runs, 11), dictionary=torch.from_numpy(entries).to(DEVICE))
    assert column.codes.runs is not None and column.codes.runs.shape == (2, 8)
    for shared in (0, 1):
        got = decode_column(column, dtype=torch.int32, config=_config(shared=shared))
        assert np.array_equal(got.cpu().numpy(), entries[values.astype(int)])


def test_a_stretch_of_equal_runs_is_found_whole() -> None:
    """40 runs of 24 values with the same header, one of 16, then 3 of 24 again."""
    parts = [24] * 40 + [16] + [24] * 3
    values = _codes(sum(parts), 6)
    cuts = np.split(values, np.cumsum(parts)[:-1])
    packed = _hybrid([(True, cut) for cut in cuts], 6)
    assert packed.runs is not None
    assert packed.runs[0].tolist() == [0, *np.cumsum(parts).tolist()]
    got = decode_column(EncodedColumn(codes=packed), dtype=torch.int64, config=_config())
    assert np.array_equal(got.cpu().numpy(), values.astype(np.int64))


def test_codes_that_do_not_exist_are_nan_or_minus_one() -> None:
    codes = np.array([0, 4, 5, 15, 2, 6, 1, 3] * 5)
    dictionary = torch.arange(5, dtype=torch.int64, device=DEVICE) + 100
    column = EncodedColumn(codes=_packed(codes, 4), dictionary=dictionary)
    expected = np.where(codes < 5, codes + 100, -1)
    for shared in (0, 1):
        config = _config(shared=shared)
        ids = decode_column(column, dtype=torch.int64, config=config)
        assert np.array_equal(ids.cpu().numpy(), expected)
        numbers = decode_column(column, dtype=torch.float32, config=config).cpu().numpy()
        assert np.array_equal(np.isnan(numbers), expected == -1)
    # More valid rows than codes: the rows beyond have none.
    short = EncodedColumn(
        codes=_hybrid([(True, codes[:8] % 5)], 4), dictionary=dictionary,
        validity=_packed(np.ones(30, bool), 1), compact=True,
    )  # fmt: skip
    got = decode_column(short, dtype=torch.int64, config=_config())
    assert got.tolist() == [*(codes[:8] % 5 + 100).tolist(), *[-1] * 22]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_floats_are_rounded_once(dtype: torch.dtype) -> None:
    codes = _codes(3000, 10)
    entries = torch.randn(1024, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    column = EncodedColumn(codes=_packed(codes, 10), dictionary=entries.to(DEVICE))
    got = decode_column(column, dtype=dtype, affine=AFFINE, config=_config()).cpu()
    exact = (entries[torch.from_numpy(codes.astype(np.int64))] - AFFINE.mean) * AFFINE.inv_std
    expected = twin(column, dtype=dtype, affine=AFFINE).cpu()
    assert torch.allclose(expected.double(), exact, rtol=2 * torch.finfo(dtype).eps, atol=0)
    if DEVICE == "cpu" and dtype == torch.bfloat16:  # the interpreter cuts the mantissa off
        distance = got.view(torch.int16).int() - expected.view(torch.int16).int()
        assert ((distance == 0) | (distance == -1)).all()
    else:
        assert torch.equal(got, expected)


def test_every_configuration_gives_the_same_bits() -> None:
    codes = _codes(5000, 6)
    valid = codes % 3 != 0
    column = EncodedColumn(
        codes=_packed(codes, 6), validity=_packed(valid, 1), compact=True,
        dictionary=torch.randn(64, device=DEVICE),
    )  # fmt: skip
    for chosen in (column, replace(column, compact=False)):
        problem = problem_of(chosen, torch.bfloat16)
        configs = KERNEL.candidates(problem)
        assert KERNEL.heuristic(problem) in configs
        few = configs[:: 1 + len(configs) // 12]
        answers = [decode_column(chosen, config=config) for config in few]
        assert all(torch.equal(answer, answers[0]) for answer in answers)


@pytest.mark.parametrize("fill", [np.nan, np.inf, -np.inf])
def test_a_null_may_be_no_number(fill: float) -> None:
    bits = _packed(np.array([1, 0, 1, 0]), 1)
    column = EncodedColumn(codes=_packed(np.array([3, 1, 2, 0]), 2), validity=bits)
    got = decode_column(column, dtype=torch.float32, affine=Affine(fill=fill), config=_config())
    np.testing.assert_array_equal(got.cpu().numpy(), [3, fill, 2, fill])


def test_what_does_not_fit_together_is_refused() -> None:
    codes = _packed(_codes(20, 4), 4)
    bits = _packed(np.ones(20), 1)
    column = EncodedColumn(codes=codes, validity=bits)
    with pytest.raises(PipelineError, match="dtype"):
        decode_column(column, dtype=torch.float64)
    with pytest.raises(PipelineError, match="whole fill"):
        decode_column(column, dtype=torch.int32, affine=Affine(fill=0.5))
    for fill, dtype in ((2.0**31, torch.int32), (2.0**63, torch.int64), (np.nan, torch.int64)):
        with pytest.raises(PipelineError, match="whole fill"):
            decode_column(column, dtype=dtype, affine=Affine(fill=fill))
    with pytest.raises(PipelineError, match="give what parse_runs made"):
        replace(codes, runs=torch.zeros(1, 2, dtype=torch.int64, device=DEVICE))
    with pytest.raises(PipelineError, match="without validity"):
        decode_column(EncodedColumn(codes=codes, compact=True))
    with pytest.raises(PipelineError, match="width 1"):
        decode_column(EncodedColumn(codes=codes, validity=codes))
    with pytest.raises(PipelineError, match="19 validity bits for 20 codes"):
        decode_column(replace(column, validity=replace(bits, num_values=19)))
    with pytest.raises(PipelineError, match="dictionary"):
        floats = torch.zeros(16, device=DEVICE)
        decode_column(replace(column, dictionary=floats), dtype=torch.int32)
    with pytest.raises(PipelineError, match="max_programs"):
        decode_column(column, max_programs=0)
    with pytest.raises(PipelineError, match="bit_width is 33"):
        replace(codes, bit_width=33)
    with pytest.raises(DataError, match="need 13 bytes; there are 10"):
        replace(codes, num_values=25)


@pytest.mark.parametrize(
    ("page", "words"),
    [
        (b"\x80\x80", "does not end"),
        (b"\x03\x00", "leaves the page"),
        (b"\x08", "leaves the page"),
        (b"\x08\x10", "more than 4 bits"),
        (b"\x00\x01\x01", "no values"),
    ],
)
def test_damaged_runs_are_named(page: bytes, words: str) -> None:
    with pytest.raises(DataError, match=words):
        parse_runs(page, bit_width=4, num_values=100)


def test_the_registered_op_tells_what_it_does() -> None:
    column = EncodedColumn(codes=_packed(_codes(30, 4), 4))
    out = torch.empty(30, device=DEVICE)
    checks = ("test_schema", "test_faketensor") if DEVICE == "cpu" else None
    options = {} if checks is None else {"test_utils": checks}
    arguments = (out, column.codes.data, None, [4, 0, 30], None, None, 0, False, None)
    op = torch.ops.iopipe.decode_column.default
    torch.library.opcheck(op, (*arguments, [0.0, 1.0, 0.0], [64, 3, 0, 4, 1], None), **options)


@pytest.mark.gpu
def test_compiled_and_captured() -> None:
    codes = _codes(100_000, 9)
    column = EncodedColumn(
        codes=_packed(codes, 9), validity=_packed(codes % 5 != 0, 1), compact=True,
        dictionary=torch.randn(512, device="cuda"),
    )  # fmt: skip
    expected = twin(column, dtype=torch.bfloat16, affine=AFFINE)

    def step(data: torch.Tensor) -> torch.Tensor:
        fed = replace(column, codes=replace(column.codes, data=data))
        return decode_column(fed, affine=AFFINE) * 2

    assert torch.equal(torch.compile(step)(column.codes.data), expected * 2)
    out = torch.empty_like(expected)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        decode_column(column, affine=AFFINE, out=out)
    out.zero_()
    graph.replay()
    assert torch.equal(out, expected)


@pytest.mark.gpu
def test_rows_beyond_two_to_the_31() -> None:
    count = 2**31 + 1000
    data = torch.randint(0, 256, (count,), dtype=torch.uint8, device="cuda")
    bits = torch.randint(0, 256, (count // 8,), dtype=torch.uint8, device="cuda")
    column = EncodedColumn(
        codes=Packed(data=data, bit_width=8, num_values=count),
        validity=Packed(data=bits, bit_width=1, num_values=count),
    )
    got = decode_column(column, dtype=torch.float16)
    compact = decode_column(replace(column, compact=True), dtype=torch.float16)
    tail = slice(count - 4000, count)
    valid = (bits[-500:, None] >> torch.arange(8, device="cuda")) & 1 == 1
    assert torch.equal(got[tail], torch.where(valid.flatten(), data[tail], 0).half())
    rank = sum(_ones(part) for part in bits.split(2**24))
    assert compact[tail][valid.flatten()][-1] == data[rank - 1].half()


def _ones(part: torch.Tensor) -> int:
    return sum(int(((part >> bit) & 1).sum()) for bit in range(8))
