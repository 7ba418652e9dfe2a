"""Categorical ids hashed into buckets.

Stands between an id column on the device and its embedding table.  Invariant: a bucket
depends on id, seed, method and number of buckets alone: the same on every device and in the
numpy twin.

Sources: fmix64 is the finaliser of MurmurHash3 (Austin Appleby, public domain); XXH64 as in
the xxHash specification, doc/xxhash_spec.md, for an input of eight bytes.  Buckets are the
upper 64 bits of hash * num_buckets (Lemire, ACM TOMACS 29(1), 2019), not a remainder.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import triton
import triton.language as tl
from torch.library import triton_op, wrap_triton

from iopipe.errors import PipelineError
from iopipe.kernels.launch import check_budget, check_tensor, chosen, num_programs, to_words
from iopipe.kernels.tuning import Config, Kernel, Problem

Method = Literal["fmix64", "xxh64"]
_METHODS = ("fmix64", "xxh64")
_BLOCKS = ("TILE",)


@triton.jit  # type: ignore[untyped-decorator]
def fmix64(key):  # type: ignore[no-untyped-def]
    """MurmurHash3's finaliser of uint64."""
    key = (key ^ (key >> 33)) * 0xFF51AFD7ED558CCD
    key = (key ^ (key >> 33)) * 0xC4CEB9FE1A85EC53
    return key ^ (key >> 33)


@triton.jit  # type: ignore[untyped-decorator]
def xxh64(key, seed):  # type: ignore[no-untyped-def]
    """XXH64 of the eight little-endian bytes of uint64."""
    lane = key * 0xC2B2AE3D27D4EB4F
    lane = ((lane << 31) | (lane >> 33)) * 0x9E3779B185EBCA87
    # 0x27d4eb2f165667c5 is the fifth prime, 8 the length.
    mixed = (seed + 0x27D4EB2F165667C5 + 8) ^ lane
    mixed = ((mixed << 27) | (mixed >> 37)) * 0x9E3779B185EBCA87 + 0x85EBCA77C2B2AE63
    mixed = (mixed ^ (mixed >> 33)) * 0xC2B2AE3D27D4EB4F
    mixed = (mixed ^ (mixed >> 29)) * 0x165667B19E3779F9
    return mixed ^ (mixed >> 32)


@triton.jit(do_not_specialize=["seed", "num_buckets", "size"])  # type: ignore[untyped-decorator]
def _bucketise(  # type: ignore[no-untyped-def]
    ids, out, size, seed, num_buckets, num_tiles, METHOD: tl.constexpr, TILE: tl.constexpr
):
    buckets = (tl.zeros([TILE], tl.int64) + num_buckets).to(tl.uint64)
    seeds = (tl.zeros([TILE], tl.int64) + seed).to(tl.uint64, bitcast=True)
    for tile in range(tl.program_id(0).to(tl.int64), num_tiles, tl.num_programs(0)):
        index = tile * TILE + tl.arange(0, TILE)
        key = tl.load(ids + index, mask=index < size, other=0).to(tl.uint64, bitcast=True)
        digest = fmix64(key ^ seeds) if METHOD == 0 else xxh64(key, seeds)
        bucket = tl.umulhi(digest, buckets).to(out.dtype.element_ty)
        tl.store(out + index, bucket, mask=index < size)


def _config(*, tile: int) -> Config:
    return Config(blocks={"TILE": tile}, num_warps=4, num_stages=1)


def _heuristic(problem: Problem) -> Config:
    return _config(tile=512)


def _candidates(problem: Problem) -> Sequence[Config]:
    return [_config(tile=tile) for tile in (256, 512, 1024, 2048)]


KERNEL = Kernel(
    name="hash_bucketise",
    functions=(_bucketise, fmix64, xxh64),
    heuristic=_heuristic,
    candidates=_candidates,
)


def hash_bucketise(
    ids: torch.Tensor,
    num_buckets: int,
    *,
    method: Method = "fmix64",
    seed: int = 0,
    out: torch.Tensor | None = None,
    max_programs: int | None = None,
    config: Config | None = None,
) -> torch.Tensor:
    """The bucket of each id, 0 to num_buckets - 1: int64, or the dtype of `out`.

    ids: int64 of any shape, contiguous.  num_buckets: 1 to 2**31.  seed: 64 bits, signed or
    not; "fmix64" XORs it into the id, "xxh64" takes it as its own.  out: int64 or int32 of
    the shape of ids.  Raises PipelineError.
    """
    check_budget(max_programs)
    check_tensor("ids", ids, like=ids, dtypes=(torch.int64,))
    if method not in _METHODS:
        raise PipelineError(f"method is {method!r}; give one of {_METHODS}")
    if not 1 <= num_buckets <= 2**31 or not -(2**63) <= seed < 2**64:
        raise PipelineError(
            f"num_buckets is {num_buckets}, seed {seed}; give 1 to 2**31, and 64 bits"
        )
    if out is None:
        out = torch.empty_like(ids)
    check_tensor("out", out, like=ids, dtypes=(torch.int64, torch.int32), shape=ids.shape)
    if ids.numel():
        signed = seed - 2**64 if seed >= 2**63 else seed
        words = to_words(config, _BLOCKS)
        _hash_bucketise(
            ids, out, num_buckets, _METHODS.index(method), signed, words, max_programs
        )
    return out


@triton_op("iopipe::hash_bucketise", mutates_args=("out",))
def _hash_bucketise(
    ids: torch.Tensor,
    out: torch.Tensor,
    num_buckets: int,
    method: int,
    seed: int,
    config: Sequence[int],
    max_programs: int | None,
) -> None:
    problem = Problem(dtypes=("int64", str(out.dtype)), shape={"ids": ids.numel()})
    launch = chosen(KERNEL, problem, config, _BLOCKS)
    tile = launch.blocks["TILE"]
    num_tiles = triton.cdiv(ids.numel(), tile)
    programs = num_programs(num_tiles, max_programs, at_most=2**31 - 1)
    wrap_triton(_bucketise)[(programs,)](
        ids, out, ids.numel(), seed, num_buckets, num_tiles,
        METHOD=method, TILE=tile, num_warps=launch.num_warps, num_stages=launch.num_stages,
    )  # fmt: skip


@_hash_bucketise.register_fake
def _(*args: object, **kwargs: object) -> None:
    return None
