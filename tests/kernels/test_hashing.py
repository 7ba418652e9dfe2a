"""Buckets of ids: those of the xxhash library and of arithmetic in Python's integers."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from iopipe.errors import PipelineError
from iopipe.kernels.hashing import Method, hash_bucketise

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
EDGES = [0, 1, -1, 2**63 - 1, -(2**63), 2**32, -(2**32) - 5]
WORD = 2**64 - 1


def _ids(count: int) -> torch.Tensor:
    ids = np.random.default_rng(count).integers(-(2**63), 2**63, count, dtype=np.int64)
    ids[: len(EDGES)] = EDGES[:count]
    return torch.from_numpy(ids)


def _fmix64(number: int, num_buckets: int, seed: int) -> int:
    digest = (number ^ seed) & WORD
    for constant in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        digest = (digest ^ digest >> 33) * constant & WORD
    return (digest ^ digest >> 33) * num_buckets >> 64


@settings(max_examples=25, deadline=None)
@given(
    count=st.integers(0, 400),
    num_buckets=st.sampled_from([1, 7, 100_000, 2**31]) | st.integers(1, 2**31),
    seed=st.integers(-(2**63), 2**64 - 1),
)
def test_fmix64_is_that_of_python_integers(count: int, num_buckets: int, seed: int) -> None:
    ids = _ids(count)
    got = hash_bucketise(ids.to(DEVICE), num_buckets, seed=seed)
    assert got.tolist() == [_fmix64(number, num_buckets, seed) for number in ids.tolist()]


@settings(max_examples=25, deadline=None)
@given(num_buckets=st.integers(1, 2**31), seed=st.integers(-(2**63), 2**64 - 1))
def test_xxh64_is_that_of_the_library(num_buckets: int, seed: int) -> None:
    xxhash = pytest.importorskip("xxhash")
    ids = _ids(300)
    digests = [xxhash.xxh64_intdigest(struct.pack("<q", n), seed & WORD) for n in ids.tolist()]
    got = hash_bucketise(ids.to(DEVICE), num_buckets, method="xxh64", seed=seed)
    assert got.tolist() == [digest * num_buckets >> 64 for digest in digests]


@pytest.mark.parametrize("method", ["fmix64", "xxh64"])
def test_consecutive_ids_spread_evenly(method: Method) -> None:
    """Consecutive ids spread evenly: 1,000 buckets of 100 on average, 10 the deviation."""
    buckets = hash_bucketise(torch.arange(100_000, device=DEVICE), 1000, method=method)
    counts = torch.bincount(buckets, minlength=1000).double()
    assert len(counts) == 1000 and 8 < counts.std() < 12


def test_any_shape_and_stride() -> None:
    ids = _ids(60).to(DEVICE).reshape(5, 12)
    assert torch.equal(hash_bucketise(ids[:, ::2], 50), hash_bucketise(ids, 50)[:, ::2])
    assert hash_bucketise(ids[:0], 50).shape == (0, 12)


def test_illegal_arguments_are_refused() -> None:
    ids = torch.zeros(4, dtype=torch.int64, device=DEVICE)
    with pytest.raises(PipelineError, match="int64"):
        hash_bucketise(ids.int(), 5)
    with pytest.raises(PipelineError, match="num_buckets is 0"):
        hash_bucketise(ids, 0)
    with pytest.raises(PipelineError, match="'md5'"):
        hash_bucketise(ids, 5, method="md5")  # type: ignore[arg-type]


@pytest.mark.gpu
def test_compiled() -> None:
    ids = _ids(10_000).cuda()
    compiled = torch.compile(hash_bucketise, fullgraph=True)
    assert torch.equal(compiled(ids, 77), hash_bucketise(ids, 77))
