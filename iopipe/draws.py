"""Random draws as a function of what they are for: (seed, epoch, sample id, op).

Used by stages that augment.  Invariant: a draw never depends on the batch, the thread or
the rank that asks, nor on what was drawn before; so a resumed or resharded run augments each
sample as the first one did.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

from iopipe.protocols import Int64Array

_NUM_ROUNDS = 10
_MASK = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)
# Rows: what belongs to words 0 and 2 of the counter.
_MULTIPLIERS = np.array([[0xD2511F53], [0xCD9E8D57]], dtype=np.uint64)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)


def philox4x32(counter: npt.NDArray[np.uint32], key: tuple[int, int]) -> npt.NDArray[np.uint32]:
    """Philox4x32-10: 128 random bits for each 128-bit counter, under one 64-bit key.

    `counter` is [n, 4] words of 32 bits, so is the result; `key` is two such words.  Source:
    Salmon et al. 2011, Parallel Random Numbers: As Easy as 1, 2, 3, and its known answers.
    """
    words = np.array(counter.T, dtype=np.uint64, order="C")
    # One round turns (w0, w1, w2, w3) into (hi(w2*M1)^w1^k0, lo(w2*M1), hi(w0*M0)^w3^k1,
    # lo(w0*M0)).  Both halves run as the rows of one array, which halves the numpy calls.
    even, odd = words[0::2], words[1::2]
    for keys in _round_keys(key):
        product = even * _MULTIPLIERS
        even = (product >> _SHIFT)[::-1] ^ odd
        even ^= keys
        product &= _MASK
        odd = product[::-1]
    words[0::2], words[1::2] = even, odd
    return words.T.astype(np.uint32)


def _round_keys(key: tuple[int, int]) -> npt.NDArray[np.uint64]:
    """[rounds, 2, 1]: the key, moved on by the Weyl steps once a round."""
    rounds = np.arange(_NUM_ROUNDS, dtype=np.uint64)[:, None]
    keys = np.array(key, dtype=np.uint64) + rounds * np.array(_KEY_STEPS, dtype=np.uint64)
    return (keys & _MASK)[:, :, None]


def uniform(
    ids: Int64Array, *, seed: int, epoch: int, op: str, num_draws: int
) -> npt.NDArray[np.float64]:
    """[n, num_draws] multiples of 2**-32 in [0, 1); row i depends on ids[i], seed, epoch, op.

    Draw j is the same whatever `num_draws` is, so an op may ask for more later.  It is word
    j % 4 of the block whose counter is (id, j // 4, 0); the key hashes the rest, so `op` is
    any name and a seed has 64 bits.
    """
    num_blocks = -(-num_draws // 4)
    counter = np.zeros((len(ids), num_blocks, 4), dtype=np.uint32)
    counter[:, :, :2] = ids.astype("<i8", copy=False).view("<u4").reshape(-1, 1, 2)
    counter[:, :, 2] = np.arange(num_blocks)
    bits = philox4x32(counter.reshape(-1, 4), _op_key(seed, epoch, op))
    draws = np.multiply(bits, 2.0**-32, dtype=np.float64)
    return draws.reshape(len(ids), 4 * num_blocks)[:, :num_draws]


def generator(sample_id: int, *, seed: int, epoch: int, op: str) -> np.random.Generator:
    """numpy's generator for one sample and op: the same wherever the sample is worked on.

    Philox4x64-10 with the key of `uniform` and the counter (0, 0, 0, sample_id), so that 2**192
    draws belong to each sample.
    """
    low, high = _op_key(seed, epoch, op)
    bits = np.random.Philox(key=[low | high << 32, 0], counter=[0, 0, 0, sample_id])
    return np.random.Generator(bits)


def _op_key(seed: int, epoch: int, op: str) -> tuple[int, int]:
    """64 bits of SHAKE-128; seed and epoch count modulo 2**64."""
    words = b"".join((word % 2**64).to_bytes(8, "little") for word in (seed, epoch))
    digest = hashlib.shake_128(b"iopipe.draws" + words + op.encode()).digest(8)
    return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little")
