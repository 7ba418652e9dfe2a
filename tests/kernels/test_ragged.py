"""The ragged kernels against plain Python and their twins, for rows of any bytes."""

from __future__ import annotations

import math
from itertools import accumulate

import pytest
import torch
from fakes.guarded import Guards
from hypothesis import given, settings
from hypothesis import strategies as st

from iopipe.errors import PipelineError
from iopipe.kernels.ragged import gather_rows, join_rows, pad, unpad
from iopipe.kernels.ragged_copy import COPY_KERNEL
from iopipe.kernels.ragged_pad import PAD_KERNEL
from iopipe.kernels.ragged_twin import (
    gather_rows_twin,
    join_rows_twin,
    pad_twin,
    unpad_twin,
)
from iopipe.kernels.ragged_words import fill_word
from iopipe.kernels.tuning import Config, Problem

Ragged = tuple[torch.Tensor, torch.Tensor]
WIDTHS = st.sampled_from([(), (1,), (3,), (8,), (2, 5)])
DTYPES = st.sampled_from([torch.uint8, torch.bfloat16, torch.int32, torch.float64, torch.bool])
OFFSETS = st.sampled_from([torch.int32, torch.int64])
LENGTHS = st.lists(st.integers(0, 9), min_size=1, max_size=12)
BUDGETS = st.sampled_from([None, 1, 2])
COPY = Config(blocks={"tokens": 8, "words": 4}, num_warps=1)
PAD = Config(blocks={"rows": 2, "words": 8}, num_warps=1)


def offsets_of(lengths: list[int], dtype: torch.dtype, device: str, start: int = 0) -> torch.Tensor:
    return torch.tensor([*accumulate(lengths, initial=start)], dtype=dtype, device=device)


def column(
    lengths: list[int],
    *,
    width: tuple[int, ...] = (),
    dtype: torch.dtype = torch.int32,
    offsets: torch.dtype = torch.int64,
    device: str,
) -> Ragged:
    shape = (sum(lengths), *width)
    generator = torch.Generator().manual_seed(len(lengths))
    values = torch.randint(0, 99, shape, generator=generator).to(dtype).to(device)
    return values, offsets_of(lengths, offsets, device)


def assert_equal(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    assert ours.dtype == theirs.dtype and torch.equal(ours, theirs)


def test_a_worked_example(device: str) -> None:
    values, offsets = column([2, 0, 3], device=device)
    a, b, c, d, e = values.tolist()
    padded = pad(values, offsets, length=2, fill=-1)
    assert padded.tolist() == [[a, b], [-1, -1], [c, d]]
    assert unpad(padded, offsets, total=6).tolist() == [a, b, c, d, 0, 0]
    rows = torch.tensor([2, 1, 0], device=device)
    taken, ends = gather_rows(values, offsets, rows, total=5)
    assert (taken.tolist(), ends.tolist()) == ([c, d, e, a, b], [0, 3, 3, 5])
    joined, ends = join_rows([(values, offsets), (taken, ends)])
    assert joined.tolist() == [a, b, c, d, e, c, d, e, a, b]
    assert ends.tolist() == [0, 5, 5, 10]


@settings(max_examples=12, deadline=None)
@given(lengths=LENGTHS, width=WIDTHS, dtype=DTYPES, kind=OFFSETS, budget=BUDGETS)
def test_to_padded_and_back(
    device: str,
    lengths: list[int],
    width: tuple[int, ...],
    dtype: torch.dtype,
    kind: torch.dtype,
    budget: int | None,
) -> None:
    values, offsets = column(lengths, width=width, dtype=dtype, offsets=kind, device=device)
    padded = pad(values, offsets, length=9, fill=1, max_programs=budget, config=PAD)
    for row, (begin, size) in enumerate(zip(offsets.tolist(), lengths, strict=False)):
        assert_equal(padded[row, :size], values[begin : begin + size])
        assert (padded[row, size:] == 1).all()
    back = unpad(padded, offsets, total=len(values), max_programs=budget, config=COPY)
    assert_equal(back, values)


@settings(max_examples=12, deadline=None)
@given(
    lengths=LENGTHS,
    width=WIDTHS,
    dtype=DTYPES,
    kind=OFFSETS,
    budget=BUDGETS,
    picks=st.lists(st.integers(0, 11), max_size=15),
)
def test_rows_by_index(
    device: str,
    lengths: list[int],
    width: tuple[int, ...],
    dtype: torch.dtype,
    kind: torch.dtype,
    budget: int | None,
    picks: list[int],
) -> None:
    values, offsets = column(lengths, width=width, dtype=dtype, offsets=kind, device=device)
    picks = [pick % len(lengths) for pick in picks]
    rows = torch.tensor(picks, dtype=torch.int64, device=device)
    total = sum(lengths[pick] for pick in picks)
    taken, ends = gather_rows(
        values, offsets, rows, total=total + 3, max_programs=budget, config=COPY
    )
    assert_equal(ends, offsets_of([lengths[pick] for pick in picks], kind, device))
    pieces = torch.tensor_split(values, offsets[1:-1].tolist())
    expected = torch.cat([values[:0], *(pieces[pick] for pick in picks)])
    assert_equal(taken[:total], expected)
    assert not taken[total:].any()


@settings(max_examples=12, deadline=None)
@given(
    lengths=st.lists(st.lists(st.integers(0, 9), min_size=4, max_size=4), min_size=1, max_size=4),
    width=WIDTHS,
    dtype=DTYPES,
    kind=OFFSETS,
    budget=BUDGETS,
)
def test_rows_side_by_side(
    device: str,
    lengths: list[list[int]],
    width: tuple[int, ...],
    dtype: torch.dtype,
    kind: torch.dtype,
    budget: int | None,
) -> None:
    parts = [
        column(part, width=width, dtype=dtype, offsets=kind, device=device) for part in lengths
    ]
    joined, ends = join_rows(parts, max_programs=budget, config=COPY)
    assert_equal(ends, offsets_of([sum(row) for row in zip(*lengths, strict=True)], kind, device))
    rows = [torch.tensor_split(values, offsets[1:-1].tolist()) for values, offsets in parts]
    expected = torch.cat([row for group in zip(*rows, strict=True) for row in group])
    assert_equal(joined, expected)


def test_the_twins_mean_the_same(device: str) -> None:
    values, offsets = column([4, 0, 7, 1], width=(3,), device=device)
    rows = torch.tensor([3, 0, 2, 0], device=device)
    assert_equal(pad(values, offsets, length=5), pad_twin(values, offsets, length=5))
    padded = pad(values, offsets, length=6)
    assert_equal(unpad(padded, offsets, total=14), unpad_twin(padded, offsets, total=14))
    ours = gather_rows(values, offsets, rows, total=18)
    theirs = gather_rows_twin(values, offsets, rows, total=18)
    parts = [(values, offsets), (values, offsets)]
    for one, other in zip(
        (*ours, *join_rows(parts)), (*theirs, *join_rows_twin(parts)), strict=True
    ):
        assert_equal(one, other)


@pytest.mark.parametrize("shift", [0, 1, 3])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64])
def test_unaligned_slots_and_what_lies_around_them(
    device: str, shift: int, dtype: torch.dtype
) -> None:
    guards = Guards(device)
    values, offsets = column([5, 0, 1, 8], width=(4,), dtype=dtype, device=device)
    out = guards.room((4, 7, 4), dtype, shift_elements=shift)
    assert pad(values, offsets, length=7, out=out) is out
    assert_equal(out, pad_twin(values, offsets, length=7))
    back = guards.room((14, 4), dtype, shift_elements=shift)
    unpad(out, offsets, total=14, out=back)
    assert_equal(back[:12], values[:12])
    rows = torch.tensor([3, 0, 3], device=device)
    room = guards.room((21, 4), dtype, shift_elements=shift), guards.room((4,), torch.int64)
    gather_rows(back, offsets, rows, total=21, out=room)
    assert_equal(room[0], gather_rows_twin(back, offsets, rows, total=21)[0])
    room = guards.room((28, 4), dtype, shift_elements=shift), guards.room((5,), torch.int64)
    join_rows([(values, offsets), (back, offsets)], out=room)
    assert_equal(room[0], join_rows_twin([(values, offsets), (back, offsets)])[0])
    guards.check()


def test_offsets_that_start_behind_0_leave_their_values_out(device: str) -> None:
    values, _ = column([10], device=device)
    offsets = torch.tensor([2, 4, 7], device=device)
    assert_equal(pad(values, offsets, length=4), pad_twin(values, offsets, length=4))
    other = column([1, 2], device=device)
    joined, ends = join_rows([(values, offsets), other])
    assert ends.tolist() == [0, 3, 8]
    expected = [*values[2:4], other[0][0], *values[4:7], *other[0][1:]]
    assert joined[:8].tolist() == [int(value) for value in expected]


def test_offsets_and_rows_outside_are_not_followed(device: str) -> None:
    guards = Guards(device)
    values = guards.room((6,), torch.int32)
    values[:] = torch.arange(1, 7)
    offsets = torch.tensor([-(2**40), 2, 6, 2**40], device=device)
    assert pad(values, offsets, length=3, fill=9).tolist() == [[9] * 3, [3, 4, 5], [9] * 3]
    rows = torch.tensor([1, 7, -1, 1], device=device)
    taken, ends = gather_rows(values, offsets, rows, total=9)
    assert (taken.tolist(), ends.tolist()) == ([3, 4, 5, 6, 3, 4, 5, 6, 0], [0, 4, 4, 4, 8])
    cut, ends = gather_rows(values, offsets, rows, total=5)
    assert cut.tolist() == [3, 4, 5, 6, 3] and int(ends[-1]) > 5


def test_offsets_stop_at_the_greatest_of_their_dtype(device: str) -> None:
    values, _ = column([3], device=device)
    offsets = torch.tensor([0, 2**31 - 1], dtype=torch.int32, device=device)
    rows = torch.zeros(3, dtype=torch.int64, device=device)
    _, ends = gather_rows(values, offsets, rows, total=4)
    assert ends.tolist() == [0, 2**31 - 1, 2**31 - 1, 2**31 - 1]


@pytest.mark.parametrize("max_programs", [None, 2])
def test_offsets_of_many_rows(device: str, max_programs: int | None) -> None:
    """More rows than one program scans: sums of programs come first."""
    lengths = [index % 3 for index in range(9000)]
    values, offsets = column(lengths, dtype=torch.uint8, device=device)
    rows = torch.arange(8999, -1, -1, device=device)
    big = Config(blocks={"tokens": 2048, "words": 1})
    ours = gather_rows(
        values, offsets, rows, total=sum(lengths), max_programs=max_programs, config=big
    )
    theirs = gather_rows_twin(values, offsets, rows, total=sum(lengths))
    assert_equal(ours[1], theirs[1])
    assert_equal(ours[0], theirs[0])


def test_nothing_in_nothing_out(device: str) -> None:
    none = torch.zeros(1, dtype=torch.int64, device=device)
    values = torch.empty((0, 3), device=device)
    assert pad(values, none, length=4).shape == (0, 4, 3)
    assert pad(values, torch.zeros_like(none).repeat(3), length=2, fill=1).eq(1).all()
    assert unpad(torch.empty((0, 4, 3), device=device), none, total=2).tolist() == [[0.0] * 3] * 2
    taken, ends = gather_rows(values, none, none[:0], total=1)
    assert taken.tolist() == [[0.0] * 3] and ends.tolist() == [0]
    joined, ends = join_rows([(values, none), (values, none)])
    assert joined.shape == (0, 3) and ends.tolist() == [0]
    narrow = torch.empty((5, 0), device=device)
    assert pad(narrow, torch.tensor([0, 5], device=device), length=3).shape == (1, 3, 0)


@pytest.mark.parametrize(
    ("fill", "dtype"),
    [
        (-100, torch.int64),
        (255, torch.uint8),
        (True, torch.bool),
        (-0.0, torch.float32),
        (1 / 3, torch.bfloat16),
        (1.00390625, torch.bfloat16),
        (1.01171875, torch.bfloat16),
        (float("-inf"), torch.bfloat16),
        (1 / 3, torch.float16),
        (1e300, torch.float64),
    ],
)
def test_fill_is_what_torch_would_write(fill: float, dtype: torch.dtype) -> None:
    expected = torch.full((8,), fill, dtype=dtype)
    for size, view in ((8, torch.int64), (4, torch.int32), (2, torch.int16)):
        if size >= dtype.itemsize:
            assert fill_word(fill, dtype, size) == int(expected.view(view)[0])
    if dtype.is_floating_point:
        words = torch.tensor([fill_word(math.nan, dtype, 8)])
        assert words.view(dtype).isnan().all()


def test_wrong_input_is_refused(device: str) -> None:
    values, offsets = column([2, 3], width=(2,), device=device)
    rows = torch.tensor([0], device=device)
    with pytest.raises(PipelineError, match=r"offsets is torch\.float32: give int32 or int64"):
        pad(values, offsets.float(), length=3)
    with pytest.raises(PipelineError, match="not contiguous"):
        pad(values.t(), offsets, length=3)
    with pytest.raises(PipelineError, match=r"fill is 0\.5: torch\.int32 does not hold it"):
        pad(values, offsets, length=3, fill=0.5)
    with pytest.raises(PipelineError, match="fill is 300"):
        pad(values.to(torch.uint8), offsets, length=3, fill=300)
    with pytest.raises(PipelineError, match=r"fill is 2: torch\.bool does not hold it"):
        pad(values.to(torch.bool), offsets, length=3, fill=2)
    with pytest.raises(PipelineError, match=r"out has shape \(2, 3, 2\): give \(2, 4, 2\)"):
        pad(values, offsets, length=4, out=pad(values, offsets, length=3))
    with pytest.raises(PipelineError, match="length is -1"):
        pad(values, offsets, length=-1)
    with pytest.raises(PipelineError, match=r"offsets has shape \(3,\): give \(4,\)"):
        unpad(values.new_zeros(3, 4), offsets, total=5)
    with pytest.raises(PipelineError, match=r"rows is torch\.int32"):
        gather_rows(values, offsets, rows.int(), total=4)
    with pytest.raises(PipelineError, match="offsets of int64 for that many"):
        gather_rows(values.to("meta"), offsets.int().to("meta"), rows.to("meta"), total=2**31)
    with pytest.raises(PipelineError, match="no parts"):
        join_rows([])
    with pytest.raises(PipelineError, match=r"a part has shape \(5,\): give \(5, 2\)"):
        join_rows([(values, offsets), (values[:, 0].contiguous(), offsets)])


@pytest.mark.gpu
def test_every_configuration_gives_the_same_bits() -> None:
    values, offsets = column([5, 0, 31, 2] * 50, width=(24,), device="cuda")
    padded = pad(values, offsets, length=16)
    rows = torch.arange(199, -1, -1, device="cuda")
    shape = {"rows": 200, "words": 192, "tokens": len(values)}
    for config in PAD_KERNEL.candidates(Problem(dtypes=("int64",), shape=shape)):
        assert_equal(pad(values, offsets, length=16, config=config), padded)
    expected = gather_rows_twin(values, offsets, rows, total=2000)
    shape = {"rows": 200, "words": 12, "tokens": 2000}
    for config in COPY_KERNEL.candidates(Problem(dtypes=("int64",), shape=shape)):
        for budget in (None, 7):
            ours = gather_rows(
                values, offsets, rows, total=2000, config=config, max_programs=budget
            )
            assert_equal(ours[0], expected[0])


@pytest.mark.gpu
def test_captured_and_compiled() -> None:
    values, offsets = column([5, 0, 31, 2] * 50, width=(24,), device="cuda")
    rows = torch.arange(199, -1, -1, device="cuda")

    def chain(values: torch.Tensor, offsets: torch.Tensor) -> tuple[torch.Tensor, ...]:
        padded = pad(values, offsets, length=31, fill=7)
        back = unpad(padded, offsets, total=1900)
        taken, ends = gather_rows(back, offsets, rows, total=1900)
        return (padded, taken, *join_rows([(taken, ends), (values, offsets)]))

    expected = chain(values, offsets)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = chain(values, offsets)
    graph.replay()
    compiled = torch.compile(chain, fullgraph=True)(values, offsets)
    for one, two, three in zip(expected, captured, compiled, strict=True):
        assert_equal(one, two)
        assert_equal(one, three)
    out = torch.empty_like(expected[0])
    torch.library.opcheck(torch.ops.iopipe.pad_rows, (values, offsets, out, 7, None, []))


@pytest.mark.gpu
def test_more_than_2_to_the_31_bytes() -> None:
    values = torch.zeros(2**31 + 64, dtype=torch.uint8, device="cuda")
    values[-64:] = torch.arange(64)
    offsets = torch.tensor([0, 2**31 - 1, 2**31 + 40, 2**31 + 64], device="cuda")
    assert_equal(pad(values, offsets[2:], length=30)[0, :24], values[-24:])
    rows = torch.tensor([0, 2, 1], device="cuda")
    taken, ends = gather_rows(values, offsets, rows, total=len(values))
    assert ends.tolist() == [0, 2**31 - 1, 2**31 + 23, 2**31 + 64]
    assert_equal(taken[2**31 - 1 : 2**31 + 23], values[-24:])
    assert_equal(taken[-40:], values[-64:-24])
    joined, _ = join_rows([(values, offsets), (values[:0], offsets * 0)])
    assert_equal(joined, values)
