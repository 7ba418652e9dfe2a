"""Buckets of ids: those of the xxhash library and of arithmetic in Python's integers."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import torch
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from iopipe.errors import PipelineError
from iopipe.kernels import hashing_twin
from iopipe.kernels.hashing import KERNEL, hash_bucketise
from iopipe.kernels.tuning import Problem

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
EDGES = [0, 1, -1, 2**63 - 1, -(2**63), 2**32, -(2**32) - 5]
WORD = 2**64 - 1


def _ids(count: int) -> torch.Tensor:
    generator = np.random.default_rng(count)
    ids = generator.integers(-(2**63), 2**63, count, dtype=np.int64)
    ids[: len(EDGES)] = EDGES[:count]
    return torch.from_numpy(ids)


def _python(number: int, num_buckets: int, method: str, seed: int) -> int:
    if method == "xxh64":
        digest = xxhash.xxh64_intdigest(struct.pack("<q", number), seed & WORD)
    else:
        digest = (number ^ seed) & WORD
        for constant in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
            digest = (digest ^ digest >> 33) * constant & WORD
        digest ^= digest >> 33
    return digest * num_buckets >> 64


@pytest.mark.parametrize("method", ["fmix64", "xxh64"])
@pytest.mark.parametrize("num_buckets", [1, 7, 100_000, 2**31])
def test_buckets_are_those_of_the_library(method: str, num_buckets: int) -> None:
    ids = _ids(600)
    got = hash_bucketise(ids.to(DEVICE), num_buckets, method=method, seed=2**63 + 11)
    expected = [_python(number, num_buckets, method, 2**63 + 11) for number in ids.tolist()]
    assert got.tolist() == expected
    twin = hashing_twin.hash_bucketise(ids, num_buckets, method=method, seed=2**63 + 11)
    assert twin.tolist() == expected


@settings(max_examples=15, deadline=None)
@given(
    count=st.integers(1, 1500),
    max_programs=st.none() | st.integers(1, 3),
    seed=st.integers(-(2**63), 2**64 - 1),
)
def test_any_size_budget_and_seed(count: int, max_programs: int | None, seed: int) -> None:
    ids = _ids(count)
    guarded = torch.full((count + 64,), -77, dtype=torch.int32, device=DEVICE)
    out = guarded[32 : 32 + count]
    answer = hash_bucketise(
        ids.to(DEVICE), 1000, method="xxh64", seed=seed, out=out, max_programs=max_programs
    )
    assert answer is out
    assert out.tolist() == [_python(number, 1000, "xxh64", seed) for number in ids.tolist()]
    assert (guarded[:32] == -77).all() and (guarded[32 + count :] == -77).all()


def test_every_configuration_gives_the_same_buckets() -> None:
    ids = _ids(2500).to(DEVICE)
    problem = Problem(dtypes=("int64", "int64"), shape={"ids": 2500})
    answers = [hash_bucketise(ids, 999, config=config) for config in KERNEL.candidates(problem)]
    assert KERNEL.heuristic(problem) in KERNEL.candidates(problem)
    assert all(torch.equal(answer, answers[0]) for answer in answers)


def test_nothing_and_any_shape() -> None:
    assert hash_bucketise(torch.empty(0, 3, dtype=torch.int64, device=DEVICE), 5).shape == (0, 3)
    ids = _ids(30).to(DEVICE).reshape(5, 6)
    assert torch.equal(hash_bucketise(ids, 50).flatten(), hash_bucketise(ids.flatten(), 50))


def test_illegal_arguments_are_refused() -> None:
    ids = torch.zeros(4, dtype=torch.int64, device=DEVICE)
    with pytest.raises(PipelineError, match="int64"):
        hash_bucketise(ids.int(), 5)
    with pytest.raises(PipelineError, match="num_buckets is 0"):
        hash_bucketise(ids, 0)
    with pytest.raises(PipelineError, match="'md5'"):
        hash_bucketise(ids, 5, method="md5")  # type: ignore[arg-type]
    with pytest.raises(PipelineError, match="max_programs"):
        hash_bucketise(ids, 5, max_programs=0)


def test_the_registered_op_tells_what_it_does() -> None:
    ids, out = _ids(100).to(DEVICE), torch.empty(100, dtype=torch.int64, device=DEVICE)
    checks = ("test_schema", "test_faketensor") if DEVICE == "cpu" else None
    options = {} if checks is None else {"test_utils": checks}
    op = torch.ops.iopipe.hash_bucketise.default
    torch.library.opcheck(op, (ids, out, 10, 0, 0, [], None), **options)


@pytest.mark.gpu
def test_compiled_and_captured() -> None:
    ids = _ids(10_000).cuda()
    expected = hash_bucketise(ids, 77)
    assert torch.equal(torch.compile(lambda x: hash_bucketise(x, 77))(ids), expected)
    out = torch.empty_like(ids)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        hash_bucketise(ids, 77, out=out)
    out.zero_()
    graph.replay()
    assert torch.equal(out, expected)
