"""The colours of the causes, as people with and without all three kinds of cones see them."""

from __future__ import annotations

import itertools
from typing import get_args

import numpy as np
import numpy.typing as npt
import pytest

from iopipe.meter.history import CAUSES
from iopipe.protocols import Cause
from iopipe.report.style import CAUSE_COLORS

VISION = {  # on linear RGB; Machado, Oliveira and Fernandes 2009, severity 1
    "full": np.eye(3),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
    "tritanopia": np.array(
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ]
    ),
}
XYZ = np.array(  # from linear sRGB, D65
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)


def _linear(color: str) -> npt.NDArray[np.float64]:
    values = np.array([int(color[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def _lab(linear: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    white = np.array([0.95047, 1.0, 1.08883])
    ratio = XYZ @ linear.clip(0, 1) / white
    x, y, z = np.where(ratio > 216 / 24389, np.cbrt(ratio), (24389 / 27 * ratio + 16) / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def test_every_cause_has_a_colour() -> None:
    assert set(CAUSE_COLORS) == set(CAUSES)
    assert set(get_args(Cause)) <= set(CAUSES)


@pytest.mark.parametrize("kind", VISION)
def test_any_two_causes_can_be_told_apart(kind: str) -> None:
    seen = {name: _lab(VISION[kind] @ _linear(color)) for name, color in CAUSE_COLORS.items()}
    for one, other in itertools.combinations(seen, 2):
        difference = float(np.linalg.norm(seen[one] - seen[other]))
        assert difference > 20, f"{one} and {other}: {difference:.0f}"  # 2 is just noticeable
