"""The token kernel against its twin; the permutation in it against iopipe.order."""

from __future__ import annotations

from dataclasses import fields, replace
from itertools import pairwise

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from fakes.guarded import Guards
from hypothesis import given, settings
from hypothesis import strategies as st

from iopipe import order
from iopipe.errors import PipelineError
from iopipe.kernels.token_batch import (
    TokenBatch,
    TokenOptions,
    TokenRows,
    WindowsAt,
    WindowsInOrder,
)
from iopipe.kernels.tokens import KERNEL, pack_tokens
from iopipe.kernels.tokens_twin import pack_tokens_twin, widened_twin, windows_twin
from iopipe.kernels.tuning import Config, Problem
from iopipe.kernels.window_order import permuted, window_order

OPTIONS = TokenOptions(end_token=3, max_documents=64)
RESULTS = [field.name for field in fields(TokenBatch) if field.name != "state"]


def blocks(size: int) -> Config:
    return Config(blocks={"block": size, "programs": 64}, num_warps=1)


def random_tokens(*shape: int, dtype: torch.dtype, device: str, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 9, shape, generator=generator).to(dtype).to(device)


def assert_same(batch: TokenBatch, expected: TokenBatch) -> None:
    for name in RESULTS:
        ours, theirs = getattr(batch, name), getattr(expected, name)
        assert ours.dtype == theirs.dtype and torch.equal(ours, theirs), name
    assert not batch.state.any()


def naive(rows: list[list[int]], end_token: int) -> dict[str, list[int]]:
    """Token by token, as one would say it."""
    found: dict[str, list[int]] = {"labels": [], "position_ids": [], "document_ids": []}
    starts: list[int] = []
    for row in rows:
        position = 0
        for column, (token, following) in enumerate(pairwise(row)):
            if column == 0 or row[column - 1] == end_token:
                starts.append(len(found["labels"]))
                position = 0
            found["labels"].append(-100 if token == end_token else following)
            found["position_ids"].append(position)
            found["document_ids"].append(len(starts) - 1)
            position += 1
    return {**found, "cu_seqlens": [*starts, len(found["labels"])]}


def test_a_worked_example(device: str) -> None:
    rows = [[5, 3, 7, 8, 3], [3, 3, 1, 2, 4]]
    tokens = torch.tensor(rows).to(torch.uint16).to(device)
    batch = pack_tokens(TokenRows(tokens), TokenOptions(end_token=3, max_documents=6))
    assert batch.inputs.tolist() == [[5, 3, 7, 8], [3, 3, 1, 2]]
    assert batch.labels.tolist() == [[3, -100, 8, 3], [-100, -100, 2, 4]]
    assert batch.position_ids.tolist() == [[0, 1, 0, 1], [0, 0, 0, 1]]
    assert batch.document_ids.tolist() == [[0, 0, 1, 1], [2, 3, 4, 4]]
    assert batch.cu_seqlens.tolist() == [0, 2, 4, 5, 6, 8, 8]
    assert batch.num_documents.tolist() == [5]
    expected = naive(rows, 3)
    assert expected["cu_seqlens"] == batch.cu_seqlens.tolist()[:6]
    for name in ("labels", "position_ids", "document_ids"):
        assert getattr(batch, name).flatten().tolist() == expected[name]


@settings(max_examples=12, deadline=None)
@given(
    num_rows=st.integers(1, 5),
    length=st.integers(1, 70),
    kind=st.sampled_from([torch.uint16, torch.uint32]),
    dtype=st.sampled_from([torch.int64, torch.int32]),
    max_programs=st.sampled_from([None, 1, 3]),
    max_documents=st.sampled_from([1, 7, 400]),
    seed=st.integers(0, 99),
)
def test_any_shape_equals_the_twin(
    device: str,
    num_rows: int,
    length: int,
    kind: torch.dtype,
    dtype: torch.dtype,
    max_programs: int | None,
    max_documents: int,
    seed: int,
) -> None:
    tokens = random_tokens(num_rows, length + 1, dtype=kind, device=device, seed=seed)
    options = replace(OPTIONS, dtype=dtype, max_documents=max_documents)
    batch = pack_tokens(TokenRows(tokens), options, max_programs=max_programs, config=blocks(32))
    assert_same(batch, pack_tokens_twin(widened_twin(tokens), options))


def guarded_batch(guards: Guards, num_rows: int, length: int) -> TokenBatch:
    plain = TokenBatch.empty(num_rows, length, OPTIONS, device=guards.device)
    batch = {
        field.name: guards.room(
            getattr(plain, field.name).shape, getattr(plain, field.name).dtype, shift_elements=1
        )
        for field in fields(TokenBatch)
    }
    batch["state"].zero_()
    return TokenBatch(**batch)


def test_a_slot_is_filled_again_and_again_and_nothing_around_it(device: str) -> None:
    guards = Guards(device)
    out = guarded_batch(guards, 3, 37)
    for seed in range(3):
        tokens = random_tokens(3, 38, dtype=torch.uint16, device=device, seed=seed)
        assert pack_tokens(TokenRows(tokens), OPTIONS, out=out, config=blocks(16)) is out
        assert_same(out, pack_tokens_twin(widened_twin(tokens), OPTIONS))
    guards.check()


def test_every_configuration_and_grid_gives_the_same_bits(device: str) -> None:
    tokens = random_tokens(4, 301, dtype=torch.uint16, device=device)
    options = TokenOptions(end_token=3, max_documents=400)
    expected = pack_tokens_twin(widened_twin(tokens), options)
    candidates = KERNEL.candidates(Problem(dtypes=(), shape={"rows": 4, "length": 300}))
    # The interpreter scans about a thousand places a second.
    configs = candidates if device == "cuda" else [blocks(16), blocks(128), candidates[0]]
    for config in configs:
        for max_programs in (None, 2):
            batch = pack_tokens(
                TokenRows(tokens), options, max_programs=max_programs, config=config
            )
            assert_same(batch, expected)


def test_windows_of_a_pool_anywhere(device: str) -> None:
    pool = random_tokens(500, dtype=torch.uint16, device=device)[1:]
    starts = torch.tensor([0, 13, 470, 13], device=device)
    batch = pack_tokens(WindowsAt(pool=pool, starts=starts, length=28), OPTIONS, config=blocks(32))
    assert_same(batch, pack_tokens_twin(windows_twin(pool, starts, 28), OPTIONS))


def test_what_lies_outside_the_pool_is_ignored(device: str) -> None:
    pool = random_tokens(20, dtype=torch.uint16, device=device)
    starts = torch.tensor([15, -3, 20, -(2**40), 2**40], device=device)
    batch = pack_tokens(WindowsAt(pool=pool, starts=starts, length=8), OPTIONS, config=blocks(8))
    values = widened_twin(pool).tolist()
    for row, start in enumerate(starts.tolist()):
        for column in range(8):
            here, following = start + column, start + column + 1
            known = 0 <= here < 20
            assert batch.inputs[row, column] == (values[here] if known else 0)
            learned = known and following < 20 and values[here] != 3
            assert batch.labels[row, column] == (values[following] if learned else -100)


def test_no_end_token_means_one_document_a_row(device: str) -> None:
    tokens = random_tokens(3, 18, dtype=torch.uint32, device=device)
    options = TokenOptions(end_token=None, max_documents=4)
    batch = pack_tokens(TokenRows(tokens), options, config=blocks(8))
    assert batch.cu_seqlens.tolist() == [0, 17, 34, 51, 51]
    assert batch.position_ids.tolist() == [list(range(17))] * 3
    assert_same(batch, pack_tokens_twin(widened_twin(tokens), options))


def test_more_documents_than_room_are_counted(device: str) -> None:
    tokens = torch.full((2, 11), 3, device=device).to(torch.uint16)
    batch = pack_tokens(TokenRows(tokens), replace(OPTIONS, max_documents=5), config=blocks(4))
    assert batch.num_documents.tolist() == [20]
    assert batch.cu_seqlens.tolist() == [0, 1, 2, 3, 4, 20]


def test_no_rows(device: str) -> None:
    tokens = random_tokens(0, 9, dtype=torch.uint16, device=device)
    batch = pack_tokens(TokenRows(tokens), OPTIONS)
    assert batch.inputs.shape == (0, 8)
    assert not batch.cu_seqlens.any() and not batch.num_documents.any()


@pytest.mark.parametrize("num_windows", [1, 2, 3, 4, 5, 10, 99, 100, 12345, 2**31 + 11, 2**62])
def test_the_order_is_iopipes_order(device: str, num_windows: int) -> None:
    key = (7, num_windows % 5)
    words = window_order(num_windows, order.round_keys(key).tolist(), device=device)
    positions = np.unique(np.linspace(0, num_windows - 1, 8).astype(np.int64))
    positions = positions[positions < num_windows]
    windows = order.permute(positions, num_windows, key)
    where = torch.from_numpy(positions).to(device)
    found = torch.empty_like(where)
    _permute_kernel[(len(where),)](where, words, found, ROUNDS=24)
    assert found.tolist() == windows.tolist()


@triton.jit
def _permute_kernel(positions, words, found, ROUNDS: tl.constexpr):
    place = tl.program_id(0)
    tl.store(found + place, permuted(tl.load(positions + place), words, ROUNDS))


@pytest.mark.parametrize("step", [1, 3])
def test_an_epoch_of_windows(device: str, step: int) -> None:
    """The first position is on the device; positions behind the epoch are outside the pool."""
    num_windows, length = 23, 10
    pool = random_tokens(num_windows * length + 1, dtype=torch.uint16, device=device)
    words = window_order(num_windows, order.round_keys((1, 2)).tolist(), device=device)
    position = torch.tensor([5], device=device)
    windows = WindowsInOrder(
        pool=pool, order=words, position=position, num_rows=9, length=length, step=step
    )
    batch = pack_tokens(windows, OPTIONS, config=blocks(8), max_programs=4)
    places = 5 + step * np.arange(9)
    known = places < num_windows
    ids = order.permute(places[known], num_windows, (1, 2))
    starts = torch.from_numpy(ids).to(device) * length
    expected = pack_tokens_twin(windows_twin(pool, starts, length), OPTIONS)
    rows = torch.from_numpy(known).to(device)
    assert torch.equal(batch.inputs[rows], expected.inputs)
    assert torch.equal(batch.labels[rows], expected.labels)
    assert not batch.inputs[~rows].any() and (batch.labels[~rows] == -100).all()


def test_wrong_input_is_refused(device: str) -> None:
    tokens = random_tokens(2, 9, dtype=torch.uint16, device=device)
    pool = tokens.view(-1)
    starts = torch.zeros(2, dtype=torch.int64, device=device)
    with pytest.raises(PipelineError, match="int64: give uint16 or uint32"):
        pack_tokens(TokenRows(widened_twin(tokens)), OPTIONS)
    with pytest.raises(PipelineError, match=r"give \[rows, length \+ 1\]"):
        pack_tokens(TokenRows(pool), OPTIONS)
    with pytest.raises(PipelineError, match="not contiguous"):
        pack_tokens(TokenRows(tokens.t()), OPTIONS)
    with pytest.raises(PipelineError, match=r"starts is torch\.int32: give int64"):
        pack_tokens(WindowsAt(pool=pool, starts=starts.int(), length=4), OPTIONS)
    with pytest.raises(PipelineError, match="make it with window_order"):
        pack_tokens(
            WindowsInOrder(pool=pool, order=starts, position=starts[:1], num_rows=1, length=4),
            OPTIONS,
        )
    with pytest.raises(PipelineError, match="max_programs is 0"):
        pack_tokens(TokenRows(tokens), OPTIONS, max_programs=0)
    with pytest.raises(PipelineError, match=r"blocks \[\]: give \['block', 'programs'\]"):
        pack_tokens(TokenRows(tokens), OPTIONS, config=Config())
    with pytest.raises(PipelineError, match="cu_seqlens has shape"):
        small = TokenBatch.empty(2, 8, replace(OPTIONS, max_documents=2), device=device)
        pack_tokens(TokenRows(tokens), OPTIONS, out=small)
    with pytest.raises(PipelineError, match="count in int32"):
        TokenBatch.empty(2**16, 2**15, OPTIONS, device="meta")
    with pytest.raises(PipelineError, match="num_windows is 0"):
        window_order(0, [1, 2], device=device)


@pytest.mark.gpu
def test_a_captured_graph_goes_through_the_epoch() -> None:
    pool = random_tokens(4097, dtype=torch.uint16, device="cuda")
    words = window_order(64, order.round_keys((0, 0)).tolist(), device="cuda")
    position = torch.zeros(1, dtype=torch.int64, device="cuda")
    windows = WindowsInOrder(pool=pool, order=words, position=position, num_rows=16, length=64)
    options = TokenOptions(end_token=3, max_documents=2000)
    out = pack_tokens(windows, options)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        pack_tokens(windows, options, out=out)
        position += 16
    for step in range(4):
        graph.replay()
        ids = order.permute(np.arange(16) + 16 * step, 64, (0, 0))
        starts = torch.from_numpy(ids).cuda() * 64
        assert_same(out, pack_tokens_twin(windows_twin(pool, starts, 64), options))


@pytest.mark.gpu
def test_compiled_and_checked_by_torch() -> None:
    tokens = random_tokens(7, 129, dtype=torch.uint16, device="cuda")
    options = TokenOptions(end_token=3, max_documents=2000)
    expected = pack_tokens_twin(widened_twin(tokens), options)

    @torch.compile(fullgraph=True)
    def compiled(tokens: torch.Tensor) -> tuple[torch.Tensor, ...]:
        batch = pack_tokens(TokenRows(tokens), options)
        return tuple(getattr(batch, name) for name in RESULTS)

    for name, result in zip(RESULTS, compiled(tokens), strict=True):
        assert torch.equal(result, getattr(expected, name)), name
    out = TokenBatch.empty(7, 128, options, device="cuda")
    tensors = [getattr(out, field.name) for field in fields(TokenBatch)]
    arguments = (tokens, None, None, None, *tensors, 129, 0, 3, -100, None, [])
    torch.library.opcheck(torch.ops.iopipe.pack_tokens, arguments)


@pytest.mark.gpu
def test_a_pool_of_more_than_2_to_the_31_tokens() -> None:
    pool = torch.zeros(2**31 + 5000, dtype=torch.int16, device="cuda").view(torch.uint16)
    end = random_tokens(5000, dtype=torch.uint16, device="cuda")
    pool[2**31 :] = end
    starts = torch.tensor([2**31, 2**31 + 2500], device="cuda")
    batch = pack_tokens(WindowsAt(pool=pool, starts=starts, length=2000), OPTIONS)
    assert_same(batch, pack_tokens_twin(windows_twin(end, starts - 2**31, 2000), OPTIONS))


@pytest.mark.gpu
def test_many_programs_wait_for_each_other_and_end() -> None:
    options = TokenOptions(end_token=3, max_documents=2**20)
    tokens = random_tokens(600, 8193, dtype=torch.uint16, device="cuda")
    out = TokenBatch.empty(600, 8192, options, device="cuda")
    expected = pack_tokens_twin(widened_twin(tokens), options)
    for max_programs in (None, 1, 7, 132, 2000):
        assert_same(
            pack_tokens(TokenRows(tokens), options, out=out, max_programs=max_programs), expected
        )
