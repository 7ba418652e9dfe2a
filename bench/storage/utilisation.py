"""Accelerator utilisation, as DLIO computes it.

Pure arithmetic under `emulation`.  Invariant: the figures are those of DLIO's statscounter.py for
the same clock readings; nothing is rounded here.

Source: github.com/argonne-lcf/dlio_benchmark, utils/statscounter.py (2.0.0); the rules of MLPerf
Storage v2.0 and v3.0 say the same in words.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from iopipe.errors import PipelineError

EXCLUDED_STEPS = 1
"""At the start of an epoch: they count for samples a second, not for the utilisation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """What one accelerator did in one epoch; all in seconds of one clock."""

    start: float
    """Before the loader was made."""
    end: float
    """After it was exhausted and gone."""
    compute: Sequence[float]
    """[steps]: the measured length of each step's computation."""
    load: Sequence[float]
    """[steps]: how long each step waited for its batch."""

    def utilisation(self) -> float:
        """Between 0 and 1: computation over the time that the epoch took, both without the first
        step.  What the loader takes to come to its end counts against it."""
        if len(self.compute) <= EXCLUDED_STEPS:
            raise PipelineError(
                f"{len(self.compute)} steps: the first one is left out, so give 2 or more"
            )
        left_out = sum(self.compute[:EXCLUDED_STEPS]) + sum(self.load[:EXCLUDED_STEPS])
        return sum(self.compute[EXCLUDED_STEPS:]) / (self.end - self.start - left_out)


def mean_utilisation(accelerators: Sequence[Sequence[Epoch]]) -> tuple[float, float]:
    """(mean, population standard deviation over the epochs) of all accelerators."""
    epochs = list(zip(*accelerators, strict=True))
    means = [statistics.fmean(epoch.utilisation() for epoch in ranks) for ranks in epochs]
    return statistics.fmean(means), statistics.pstdev(means)


def samples_per_second(accelerators: Sequence[Sequence[Epoch]], *, batch_size: int) -> float:
    """Of all accelerators together, the first step included: the mean over the epochs."""
    rates = []
    for ranks in zip(*accelerators, strict=True):
        steps = sum(len(epoch.compute) for epoch in ranks)
        seconds = max(epoch.end for epoch in ranks) - min(epoch.start for epoch in ranks)
        rates.append(steps * batch_size / seconds)
    return statistics.fmean(rates)
