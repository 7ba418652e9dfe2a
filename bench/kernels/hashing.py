"""Cases of hashed buckets: the id columns of a recommender's batch.

Stands beside `iopipe.kernels.hashing`.  Invariant: bytes are ids in and buckets out, once.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from iopipe.bench.kernels.cases import Case
from iopipe.kernels.hashing import KERNEL, Method, hash_bucketise
from iopipe.kernels.hashing_twin import hash_bucketise as twin
from iopipe.kernels.tuning import Problem


def cases(device: str) -> Iterator[Case]:
    """26 features of a batch of 65,536, a small batch, and a large one."""
    yield _case("26x65536 fmix64", 26 * 65536, "fmix64", device)
    yield _case("26x4096 xxh64", 26 * 4096, "xxh64", device)
    yield _case("64M xxh64", 2**26, "xxh64", device)


def _case(name: str, count: int, method: Method, device: str) -> Case:
    generator = torch.Generator(device).manual_seed(count)
    ids = torch.randint(-(2**63), 2**63 - 1, (count,), generator=generator, device=device)
    out = torch.empty_like(ids)
    plain = partial(twin, ids, 1_000_003, method=method, seed=1)
    return Case(
        kernel=KERNEL,
        name=name,
        problem=Problem(dtypes=("int64", "int64"), shape={"ids": count}),
        num_bytes=16 * count,
        run=lambda config: hash_bucketise(
            ids, 1_000_003, method=method, seed=1, out=out, config=config
        ),
        twin=plain,
        agrees=torch.equal,
        baselines={"torch": plain, "torch.compile": torch.compile(plain)},
    )
