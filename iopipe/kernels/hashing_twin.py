"""The naive twin of `hashing`: the same arithmetic in torch's signed integers.

Invariant: no tricks but those that a missing unsigned 64-bit type forces.
"""

from __future__ import annotations

import torch


def _signed(constant: int) -> int:
    return constant - 2**64 if constant >= 2**63 else constant


def _shifted(value: torch.Tensor, by: int) -> torch.Tensor:
    """Shifted to the right, with zeros coming in."""
    return (value >> by) & (2 ** (64 - by) - 1)


def _rotated(value: torch.Tensor, by: int) -> torch.Tensor:
    return (value << by) | _shifted(value, 64 - by)


def _fmix64(key: torch.Tensor) -> torch.Tensor:
    key = (key ^ _shifted(key, 33)) * _signed(0xFF51AFD7ED558CCD)
    key = (key ^ _shifted(key, 33)) * _signed(0xC4CEB9FE1A85EC53)
    return key ^ _shifted(key, 33)


def _xxh64(key: torch.Tensor, seed: int) -> torch.Tensor:
    first, second = _signed(0x9E3779B185EBCA87), _signed(0xC2B2AE3D27D4EB4F)
    lane = _rotated(key * second, 31) * first
    mixed = _signed((seed + 0x27D4EB2F165667C5 + 8) % 2**64) ^ lane
    mixed = _rotated(mixed, 27) * first + _signed(0x85EBCA77C2B2AE63)
    mixed = (mixed ^ _shifted(mixed, 33)) * second
    mixed = (mixed ^ _shifted(mixed, 29)) * 0x165667B19E3779F9
    return mixed ^ _shifted(mixed, 32)


def hash_bucketise(
    ids: torch.Tensor, num_buckets: int, *, method: str = "fmix64", seed: int = 0
) -> torch.Tensor:
    """int64 buckets of int64 ids."""
    signed = _signed(seed % 2**64)
    digest = _fmix64(ids ^ signed) if method == "fmix64" else _xxh64(ids, seed)
    # The upper half of the product from 32-bit halves; num_buckets <= 2**31 keeps it signed.
    upper, lower = _shifted(digest, 32), digest & (2**32 - 1)
    return (upper * num_buckets + (lower * num_buckets >> 32)) >> 32
