"""The form of the ragged kernels for long rows: the same bits as the one that goes by tokens."""

from __future__ import annotations

from itertools import accumulate

import pytest
import torch
from fakes.guarded import Guards
from hypothesis import given, settings
from hypothesis import strategies as st

from iopipe.errors import PipelineError
from iopipe.kernels.ragged import gather_rows, pad, unpad
from iopipe.kernels.ragged_runs import RUN_KERNEL, is_run
from iopipe.kernels.tuning import Config, Problem

RUNS = Config(blocks={"run_bytes": 128}, num_warps=1)
TOKENS = Config(blocks={"tokens": 32, "words": 4}, num_warps=1)
PADS = Config(blocks={"rows": 2, "words": 32}, num_warps=1)
LENGTHS = st.lists(st.sampled_from([0, 0, 1, 2, 7, 8, 9, 31, 70, 200]), min_size=1, max_size=8)
KINDS = st.sampled_from([torch.int32, torch.int64])
SHAPES = st.sampled_from(
    [(torch.uint8, ()), (torch.uint8, (3,)), (torch.int16, ()), (torch.int32, (3,))]
)
BUDGETS = st.sampled_from([None, 1, 3])


def column(
    lengths: list[int], shape: tuple[torch.dtype, tuple[int, ...]], kind: torch.dtype, device: str
) -> tuple[torch.Tensor, torch.Tensor]:
    dtype, width = shape
    generator = torch.Generator().manual_seed(sum(lengths))
    values = torch.randint(0, 256, (sum(lengths), *width), generator=generator)
    offsets = torch.tensor([*accumulate(lengths, initial=0)], dtype=kind, device=device)
    return values.to(dtype).to(device), offsets


@settings(max_examples=8, deadline=None)
@given(lengths=LENGTHS, shape=SHAPES, kind=KINDS, budget=BUDGETS, data=st.data())
def test_padded_and_back(
    device: str,
    lengths: list[int],
    shape: tuple[torch.dtype, tuple[int, ...]],
    kind: torch.dtype,
    budget: int | None,
    data: st.DataObject,
) -> None:
    values, offsets = column(lengths, shape, kind, device)
    length = data.draw(st.sampled_from([1, 5, 8, 70, 211]))
    fill = data.draw(st.sampled_from([0, 1]))
    by_tokens = pad(values, offsets, length=length, fill=fill, config=PADS)
    padded = pad(values, offsets, length=length, fill=fill, max_programs=budget, config=RUNS)
    assert torch.equal(padded, by_tokens)
    total = sum(lengths) + data.draw(st.sampled_from([0, 1, 13]))
    back = unpad(padded, offsets, total=total, max_programs=budget, config=RUNS)
    assert torch.equal(back, unpad(padded, offsets, total=total, config=TOKENS))


@settings(max_examples=8, deadline=None)
@given(lengths=LENGTHS, shape=SHAPES, kind=KINDS, budget=BUDGETS, data=st.data())
def test_rows_by_number(
    device: str,
    lengths: list[int],
    shape: tuple[torch.dtype, tuple[int, ...]],
    kind: torch.dtype,
    budget: int | None,
    data: st.DataObject,
) -> None:
    values, offsets = column(lengths, shape, kind, device)
    number = st.integers(-1, len(lengths))  # two of them are not there
    rows = torch.tensor(data.draw(st.lists(number, min_size=1, max_size=9)), device=device)
    total = data.draw(st.integers(0, 2 * sum(lengths) + 9))
    ours = gather_rows(values, offsets, rows, total=total, max_programs=budget, config=RUNS)
    theirs = gather_rows(values, offsets, rows, total=total, config=TOKENS)
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


WILD = [
    [3, 10, 10, 90],
    [-(2**62), 4, 50, 2**62],
    [0, 2**40, 2**40, 2**41],
    [-9, -9, -2, -1],
    [30, 30, 30, 30],
]


@pytest.mark.parametrize("offsets", WILD)
def test_offsets_that_lie_outside_read_as_nothing(device: str, offsets: list[int]) -> None:
    values = torch.arange(1, 62, dtype=torch.uint8, device=device)
    ends = torch.tensor(offsets, device=device)
    by_tokens = pad(values, ends, length=21, fill=9, config=PADS)
    assert torch.equal(pad(values, ends, length=21, fill=9, config=RUNS), by_tokens)
    back = unpad(by_tokens, ends, total=77, config=RUNS)
    assert torch.equal(back, unpad(by_tokens, ends, total=77, config=TOKENS))


@pytest.mark.parametrize("begin", [0, 1, 7, 8])
@pytest.mark.parametrize("length", [1, 7, 8, 9, 40])
def test_rows_from_any_byte_and_nothing_beside_the_result_is_written(
    device: str, begin: int, length: int
) -> None:
    guards = Guards(device)
    buffer = torch.arange(99, dtype=torch.uint8, device=device)
    values = buffer[begin : begin + 64]
    ends = torch.tensor([2, 2 + length, 2 + length, 64], device=device)
    out = guards.room((3, length), torch.uint8)
    pad(values, ends, length=length, fill=7, out=out, config=RUNS)
    assert torch.equal(out, pad(values.clone(), ends, length=length, fill=7, config=PADS))
    guards.check()


def test_the_form_is_chosen_by_length_and_width(device: str) -> None:
    narrow = torch.empty(100_000, dtype=torch.uint8, device=device)
    assert is_run([], narrow, 10, word_bytes=1)
    assert not is_run([], narrow, 1000, word_bytes=1)
    assert not is_run([], narrow, 10, word_bytes=8)
    assert not is_run([], narrow[1:], 10, word_bytes=1)
    with pytest.raises(PipelineError, match="multiple of 8 bytes"):
        is_run([64, 1, 1], narrow[1:], 10, word_bytes=1)


def test_every_configuration_gives_the_same_bits(device: str) -> None:
    values, offsets = column([9000, 0, 5, 30_000], (torch.uint8, ()), torch.int64, device)
    rows = torch.tensor([3, 0, 2], device=device)
    total = 39_010
    problem = Problem(dtypes=("uint8",), shape={"bytes": total, "rows": 3})
    expected, _ = gather_rows(values, offsets, rows, total=total, config=TOKENS)
    for config in RUN_KERNEL.candidates(problem):
        taken, _ = gather_rows(values, offsets, rows, total=total, config=config)
        assert torch.equal(taken, expected)
    assert torch.equal(gather_rows(values, offsets, rows, total=total)[0], expected)


@pytest.mark.gpu
def test_encoded_images_captured_in_a_graph() -> None:
    lengths = [100_003, 0, 70_001, 5, 250_000, 8192] * 9
    values, offsets = column(lengths, (torch.uint8, ()), torch.int64, "cuda")
    rows = torch.randperm(len(lengths), generator=torch.Generator().manual_seed(0)).to("cuda")
    out = torch.empty_like(values), torch.empty_like(offsets)

    def take() -> None:
        gather_rows(values, offsets, rows, total=len(values), out=out)

    take()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        take()
    out[0].zero_()
    graph.replay()
    by_words = Config(blocks={"tokens": 1024, "words": 1})
    expected, _ = gather_rows(values, offsets, rows, total=len(values), config=by_words)
    assert torch.equal(out[0], expected)
