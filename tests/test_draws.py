"""Draws: the published vectors of Philox, and keyed by the sample alone."""

from __future__ import annotations

import numpy as np
import pytest

from iopipe.draws import philox4x32, uniform


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [  # Random123's known-answer vectors for philox4x32, 10 rounds
        ("00000000 00000000 00000000 00000000", "00000000 00000000",
         "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff",
         "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0",
         "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)  # fmt: skip
def test_philox_gives_the_published_vectors(counter: str, key: str, expected: str) -> None:
    words = np.array([[int(word, 16)] for word in counter.split()], np.uint64)
    key0, key1 = (int(word, 16) for word in key.split())
    result = philox4x32(words, (key0, key1))[:, 0]
    assert [f"{int(word):08x}" for word in result] == expected.split()


def _draw(ids: list[int], **changes: object) -> list[list[float]]:
    options = {"seed": 1, "epoch": 2, "operation": "crop", "num_draws": 7, **changes}
    return uniform(np.array(ids, np.int64), **options).tolist()  # type: ignore[arg-type]


def test_a_draw_belongs_to_its_sample() -> None:
    together = _draw([5, 2**40 + 1, 0, 5])
    assert together[0] == together[3]
    assert [_draw([sample])[0] for sample in (5, 2**40 + 1, 0)] == together[:3]
    assert [row[:3] for row in together] == _draw([5, 2**40 + 1, 0, 5], num_draws=3)


@pytest.mark.parametrize(
    "change", [{"seed": 2**63}, {"seed": -1}, {"epoch": 3}, {"operation": "flip"}]
)
def test_everything_in_the_key_matters(change: dict[str, object]) -> None:
    assert not set(_draw([5])[0]) & set(_draw([5], **change)[0])


def test_draws_are_uniform() -> None:
    draws = uniform(np.arange(20_000), seed=3, epoch=0, operation="x", num_draws=6)
    assert draws.min() >= 0
    assert draws.max() < 1
    counts = np.array([np.histogram(column, 16, (0, 1))[0] for column in draws.T])
    chi_square = ((counts - 1250) ** 2 / 1250).sum(axis=1)
    assert (chi_square < 37.7).all()  # the 0.999 quantile of 15 degrees of freedom
    correlation = np.corrcoef(draws.T) - np.eye(6)
    assert np.abs(correlation).max() < 4 / np.sqrt(20_000)
