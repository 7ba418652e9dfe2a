"""Quantiles of a quantity over a whole run, from counts in logarithmic bins.

Stands beside the history, which keeps only the last steps one by one.  Invariant: a quantile
is at most `RELATIVE_ERROR` away from the value that a sorted list would give, however many
values were added.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from iopipe.protocols import Int64Array

_BINS_PER_OCTAVE = 64
_OCTAVES = 63
"""All of int64."""
RELATIVE_ERROR = 2 ** (0.5 / _BINS_PER_OCTAVE) - 1
"""Half a bin: 0.55 %."""


class Distribution:
    """How often which value occurred; whole numbers from 0 on, below 2**63."""

    def __init__(self) -> None:
        # Bin 0 holds the zeros, which have no logarithm: most steps of a fed run have no stall.
        self._counts = np.zeros(1 + _BINS_PER_OCTAVE * _OCTAVES, np.int64)

    def add(self, values: Int64Array) -> None:
        """[n], any order; negative ones count as 0, which clocks read twice can give."""
        logarithms = np.log2(np.maximum(values, 1)) * _BINS_PER_OCTAVE
        bins = np.where(values > 0, 1 + logarithms.astype(np.int64), 0)
        self._counts += np.bincount(bins, minlength=len(self._counts))

    def quantiles(self, shares: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """The values below which these shares (0 to 1) of all values lie; 0 before the first.

        The smallest value with at least that share at or below it: `inverted_cdf` of numpy.
        """
        cumulated = np.cumsum(self._counts)
        ranks = np.maximum(np.ceil(np.asarray(shares) * cumulated[-1]), 1)
        bins = np.minimum(np.searchsorted(cumulated, ranks), len(cumulated) - 1)
        middle = np.exp2((bins - 0.5) / _BINS_PER_OCTAVE)
        return np.where((bins > 0) & (cumulated[-1] > 0), middle, 0.0)

    def copy(self) -> Distribution:
        twin = Distribution()
        twin._counts[:] = self._counts
        return twin
