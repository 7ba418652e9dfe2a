"""Random draws that belong to a sample, not to a thread.

Stands beside the order; decode asks it for crops and flips.  Invariant: a draw is a pure
function of (seed, epoch, sample id, operation, number), so it is the same for any number of
threads and processes, in any chunking, and after a resume.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

from iopipe.protocols import Int64Array

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)
_MASK = 0xFFFFFFFF
_HALF = np.uint64(32)
_LOW = np.uint64(_MASK)


def philox4x32(counter: npt.NDArray[np.uint64], key: tuple[int, int]) -> npt.NDArray[np.uint64]:
    """Philox4x32-10 on every column of `counter` [4, n]; 32-bit words in 64-bit lanes.

    Source: J. Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3, SC 2011; the
    tests hold the known-answer vectors of its Random123 library.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        product0, product1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0 = (product1 >> _HALF) ^ c1 ^ np.uint64(k0)
        c2 = (product0 >> _HALF) ^ c3 ^ np.uint64(k1)
        c1, c3 = product1 & _LOW, product0 & _LOW
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return np.stack((c0, c1, c2, c3))


def uniform(
    ids: Int64Array, *, seed: int, epoch: int, operation: str, num_draws: int
) -> npt.NDArray[np.float64]:
    """Draws in [0, 1), [n, num_draws], 32 bits each.

    The counter holds the sample id (64 bits), the number of the draw and the epoch; the key
    is seed and operation, hashed.
    """
    num_blocks = -(-num_draws // 4)
    lanes = np.repeat(ids.astype(np.uint64), num_blocks)
    counter = np.empty((4, len(lanes)), np.uint64)
    counter[0] = lanes & _LOW
    counter[1] = lanes >> _HALF
    counter[2] = np.tile(np.arange(num_blocks, dtype=np.uint64), len(ids))
    counter[3] = epoch & _MASK
    words = philox4x32(counter, _key(seed, operation))
    draws = words.T.reshape(len(ids), num_blocks * 4)[:, :num_draws]
    return draws.astype(np.float64) * 2.0**-32


def _key(seed: int, operation: str) -> tuple[int, int]:
    digest = hashlib.blake2b(f"{seed}/{operation}".encode(), digest_size=8).digest()
    return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little")
