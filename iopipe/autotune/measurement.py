"""What a stretch of steps says about one setting.

Stands between the meter and the policy.  Invariant: a measurement covers steps that were all
made with the same values of all knobs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One or more windows of steps."""

    num_steps: int
    rate: float
    """Samples a second that the training loop consumed, above 0; batches where nothing tells
    how many samples they hold."""
    error: float = 0.0
    """Of `rate`, as a fraction of it, one standard error; near 0: steps were alike."""
    starved: float
    """Share of the time that the step waited for its input, as in a report."""
    causes: Mapping[str, float] = field(default_factory=dict)
    busy: Mapping[str, float] = field(default_factory=dict)
    """Knob -> share of the time that its threads worked; near 1: they are what is waited for."""
    on_core: Mapping[str, float] = field(default_factory=dict)
    """Knob -> the part of that work that was spent on a core; near 0: they wait for a device."""
    cores: float = 0.0
    """That the run kept busy, the training step included."""

    def and_then(self, later: Measurement) -> Measurement:
        """Both windows as one; the later one tells how busy threads are."""
        steps = self.num_steps + later.num_steps
        mine = self.num_steps / steps
        # Steps of windows take steps / rate: rates are weighed by the time they lasted.
        own_time, their_time = self.num_steps / self.rate, later.num_steps / later.rate
        return Measurement(
            num_steps=steps,
            rate=steps / (own_time + their_time),
            error=math.hypot(mine * self.error, (1 - mine) * later.error),
            starved=mine * self.starved + (1 - mine) * later.starved,
            causes=later.causes,
            busy=later.busy,
            on_core=later.on_core,
            cores=mine * self.cores + (1 - mine) * later.cores,
        )


def relative_error(lengths: Sequence[float]) -> float:
    """The standard error of the mean of `lengths`, as a fraction of it."""
    num = len(lengths)
    mean = math.fsum(lengths) / num if num else 0.0
    if num < 2 or not mean:
        return 0.0
    variance = math.fsum((one - mean) ** 2 for one in lengths) / (num - 1)
    return math.sqrt(variance / num) / mean
