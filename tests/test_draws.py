"""Philox against Random123's known answers; draws that depend on nothing but their key."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iopipe.draws import philox4x32, uniform

# Salmon et al., Random123, tests/kat_vectors: philox4x32 with 10 rounds.
KNOWN_ANSWERS = [
    ("00000000 " * 4, "00000000 " * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff " * 4, "ffffffff " * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    (
        "243f6a88 85a308d3 13198a2e 03707344",
        "a4093822 299f31d0",
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
]

WORD = st.integers(0, 2**32 - 1)


def words(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_known_answers(counter: str, key: str, expected: str) -> None:
    first, second = words(key)
    block = np.array([words(counter)], dtype=np.uint32)
    assert philox4x32(block, (first, second)).tolist() == [words(expected)]


def naive_philox(counter: list[int], key: tuple[int, int]) -> list[int]:
    """The paper's round, word by word."""
    (a, b, c, d), (k0, k1) = counter, key
    for _ in range(10):
        high0, low0 = divmod(0xD2511F53 * a, 2**32)
        high1, low1 = divmod(0xCD9E8D57 * c, 2**32)
        a, b, c, d = high1 ^ b ^ k0, low1, high0 ^ d ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return [a, b, c, d]


@given(counters=st.lists(st.lists(WORD, min_size=4, max_size=4), max_size=7), k0=WORD, k1=WORD)
def test_vectorised_agrees_with_the_naive_twin(counters: list[list[int]], k0: int, k1: int) -> None:
    blocks = np.array(counters, dtype=np.uint32).reshape(-1, 4)
    before = blocks.copy()
    drawn = philox4x32(blocks, (k0, k1))
    assert drawn.dtype == np.uint32 and drawn.shape == blocks.shape
    assert drawn.tolist() == [naive_philox(counter, (k0, k1)) for counter in counters]
    assert np.array_equal(blocks, before)


def draw(ids: list[int], num_draws: int = 5, **key: int | str) -> np.ndarray:
    options = {"seed": 1, "epoch": 2, "op": "crop", **key}
    return uniform(np.array(ids, dtype=np.int64), num_draws=num_draws, **options)  # type: ignore[arg-type]


@given(ids=st.lists(st.integers(0, 2**63 - 1), max_size=6), num_draws=st.integers(0, 13))
def test_rows_are_independent_of_the_batch(ids: list[int], num_draws: int) -> None:
    together = draw(ids, num_draws)
    assert together.shape == (len(ids), num_draws) and together.dtype == np.float64
    longer = draw(ids, num_draws + 3)
    for row, sample_id in enumerate(ids):
        alone = draw([sample_id], num_draws)
        assert np.array_equal(together[row], alone[0])
        assert np.array_equal(longer[row, :num_draws], alone[0])


def test_uniform_is_philox_of_id_and_block() -> None:
    """Bit for bit, with the key read off an id that was not asked for before."""
    sample_id = 0x0123456789ABCDEF
    drawn = (draw([sample_id], 8)[0] * 2**32).astype(np.uint64)
    other = (draw([7], 4)[0] * 2**32).astype(np.uint64)
    text = (1).to_bytes(8, "little") + (2).to_bytes(8, "little") + b"crop"
    digest = hashlib.shake_128(b"iopipe.draws" + text).digest(8)
    key = int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little")
    expected = [naive_philox([0x89ABCDEF, 0x01234567, block, 0], key) for block in range(2)]
    assert drawn.tolist() == expected[0] + expected[1]
    assert other.tolist() == naive_philox([7, 0, 0, 0], key)


def test_values_are_frozen() -> None:
    """Saved runs depend on these: a change breaks every resumed augmentation."""
    words = draw([0, 2**40 + 1], 3) * 2**32
    assert words.tolist() == [
        [2575726739, 3443835433, 2587208267],
        [1956190568, 1673573416, 33980964],
    ]


def test_every_part_of_the_key_counts() -> None:
    variants = [
        draw([5]),
        draw([6]),
        draw([5 + 2**32]),
        draw([5], seed=2),
        draw([5], seed=1 + 2**32),
        draw([5], seed=2**63),
        draw([5], seed=-1),
        draw([5], epoch=3),
        draw([5], seed=2, epoch=1),
        draw([5], op="flip"),
        draw([5], op=""),
    ]
    values = np.concatenate(variants).ravel()
    assert len(np.unique(values)) == values.size


def test_draws_look_uniform_and_uncorrelated() -> None:
    drawn = draw(list(range(20_000)), 6)
    assert drawn.min() >= 0 and drawn.max() < 1
    counts = np.stack([np.histogram(column, 50, (0, 1))[0] for column in drawn.T])
    chi_square = ((counts - 400) ** 2 / 400).sum(axis=1)
    assert (chi_square < 100).all()  # 49 degrees of freedom: beyond 100 once in 2e4
    neighbours = np.corrcoef(np.concatenate([drawn[1:], drawn[:-1]], axis=1).T)
    off_diagonal = neighbours[~np.eye(12, dtype=bool)]
    # The same values stand in both halves, one row apart; |r| has a deviation of 0.007.
    assert np.abs(off_diagonal).max() < 0.035
