"""Categorical ids hashed into buckets.

Stands between an id column on the device and its embedding table.  Invariant: a bucket
depends on id, seed, method and number of buckets alone, and is the same on every device.

Plain torch, not a kernel: a Triton one was no faster than torch.compile of this (README.md).

Sources: fmix64 is the finaliser of MurmurHash3 (Austin Appleby, public domain); XXH64 as in
the xxHash specification, doc/xxhash_spec.md, for an input of eight bytes.  Buckets are the
upper 64 bits of hash * num_buckets (Lemire, ACM TOMACS 29(1), 2019), not a remainder.
"""

from __future__ import annotations

from typing import Literal

import torch

from iopipe.errors import PipelineError

Method = Literal["fmix64", "xxh64"]
_METHODS = ("fmix64", "xxh64")


def hash_bucketise(
    ids: torch.Tensor, num_buckets: int, *, method: Method = "fmix64", seed: int = 0
) -> torch.Tensor:
    """The bucket of each id, 0 to num_buckets - 1: int64 of the shape of `ids`.

    ids: int64 of any shape.  num_buckets: 1 to 2**31.  seed: 64 bits, signed or not; "fmix64"
    XORs it into the id, "xxh64" takes it as its own.  About forty elementwise operations,
    which torch.compile makes one launch.  Raises PipelineError.
    """
    if ids.dtype != torch.int64:
        raise PipelineError(f"ids are {ids.dtype}: give int64")
    if method not in _METHODS:
        raise PipelineError(f"method is {method!r}: give one of {_METHODS}")
    if not 1 <= num_buckets <= 2**31 or not -(2**63) <= seed < 2**64:
        raise PipelineError(
            f"num_buckets is {num_buckets}, seed {seed}: give 1 to 2**31, and 64 bits"
        )
    digest = _fmix64(ids ^ _signed(seed)) if method == "fmix64" else _xxh64(ids, seed)
    # The upper half of the product from 32-bit halves; num_buckets <= 2**31 keeps it signed.
    upper, lower = _shifted(digest, 32), digest & (2**32 - 1)
    return (upper * num_buckets + (lower * num_buckets >> 32)) >> 32


def _fmix64(key: torch.Tensor) -> torch.Tensor:
    key = (key ^ _shifted(key, 33)) * _signed(0xFF51AFD7ED558CCD)
    key = (key ^ _shifted(key, 33)) * _signed(0xC4CEB9FE1A85EC53)
    return key ^ _shifted(key, 33)


def _xxh64(key: torch.Tensor, seed: int) -> torch.Tensor:
    first, second = _signed(0x9E3779B185EBCA87), _signed(0xC2B2AE3D27D4EB4F)
    lane = _rotated(key * second, 31) * first
    # 0x27d4eb2f165667c5 is the fifth prime, 8 the length.
    mixed = lane ^ _signed(seed + 0x27D4EB2F165667C5 + 8)
    mixed = _rotated(mixed, 27) * first + _signed(0x85EBCA77C2B2AE63)
    mixed = (mixed ^ _shifted(mixed, 33)) * second
    mixed = (mixed ^ _shifted(mixed, 29)) * 0x165667B19E3779F9
    return mixed ^ _shifted(mixed, 32)


def _signed(constant: int) -> int:
    """The same 64 bits as torch's int64 has them."""
    constant %= 2**64
    return constant - 2**64 if constant >= 2**63 else constant


def _shifted(value: torch.Tensor, by: int) -> torch.Tensor:
    """Shifted to the right, with zeros coming in."""
    kept: int = 2 ** (64 - by) - 1
    return (value >> by) & kept


def _rotated(value: torch.Tensor, by: int) -> torch.Tensor:
    return (value << by) | _shifted(value, 64 - by)
