"""Several sources as one sequence, in given shares.

Stands beside the shuffles, over one of them a source.  Invariant: which source has its turn
at a position, and the how-manieth of it comes then, follow from seed and position alone; each
source is gone through in its own order, epoch by epoch, without a gap.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal, TypeAlias

import numpy as np

from iopipe.errors import PipelineError
from iopipe.order.permutation import scatter
from iopipe.order.shuffles import EpochSequence
from iopipe.protocols import Int64Array

Stop: TypeAlias = Literal["first", "all", "repeat"]

_MIN_BLOCK, _MAX_BLOCK = 512, 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """From `start` on, each block of `sum(counts)` positions has `counts[i]` of source i."""

    start: int
    counts: tuple[int, ...]

    @property
    def block(self) -> int:
        return sum(self.counts)


def exact_counts(weights: Sequence[float]) -> tuple[int, ...]:
    """Whole numbers in the ratio of `weights`, their sum between 512 and 4096.

    Exact where the weights are fractions of so small a denominator (0.7 and 0.3, 1 and 2);
    else to the nearest 4096th, and at least one where a weight is not 0.
    """
    shares = [Fraction(str(weight)) for weight in weights if math.isfinite(weight)]
    if len(shares) < len(weights) or any(share < 0 for share in shares) or not sum(shares):
        raise PipelineError(f"weights are {list(weights)}: give numbers >= 0, not all of them 0")
    shares = [share / sum(shares) for share in shares]
    block = math.lcm(*(share.denominator for share in shares))
    if block <= _MAX_BLOCK:
        block *= -(-_MIN_BLOCK // block)
        return tuple(int(share * block) for share in shares)
    counts = [max(int(share * _MAX_BLOCK), share > 0) for share in shares]
    rest = [float(share * _MAX_BLOCK) - count for share, count in zip(shares, counts, strict=True)]
    while (missing := _MAX_BLOCK - sum(counts)) != 0:
        step = 1 if missing > 0 else -1
        place = max(range(len(rest)), key=lambda at: step * rest[at] if counts[at] > 1 else -9.0)
        counts[place] += step
        rest[place] -= step
    return tuple(counts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """Positions of the mixture, turned into ids of all sources in a row.

    Within a block of positions the turns of the sources are shuffled; over a block their
    numbers are exact.  What happens where one source ends:

    - 'first': the epoch is over when the first of them has been gone through.
    - 'all': it is over when all have been; those that end earlier begin again.
    - 'repeat': all begin again whenever they end; an epoch is `epoch_samples` positions.

    An epoch continues each source where the epoch before left it.  Phases count positions:
    those of an epoch with 'first' and 'all', in which every epoch has the same turns, and
    those of the whole run with 'repeat'.
    """

    names: tuple[str, ...]
    parts: tuple[EpochSequence, ...]
    phases: tuple[Phase, ...]
    stop: Stop = "all"
    seed: int = 0
    epoch_samples: int | None = None
    """With 'repeat'; None: as many as all sources have together."""

    def __post_init__(self) -> None:
        if self.stop not in ("first", "all", "repeat"):
            raise PipelineError(f"stop is {self.stop!r}: give 'first', 'all' or 'repeat'")
        if self.epoch_samples is not None and self.stop != "repeat":
            raise PipelineError("epoch_samples is for stop='repeat'; else the sources decide")
        starts = [phase.start for phase in self.phases]
        if starts[:1] != [0] or starts != sorted(set(starts)):
            raise PipelineError(f"weights begin at {starts}: give ascending positions, 0 first")
        for name, size in zip(self.names, self._sizes, strict=True):
            if not size:
                raise PipelineError(f"source {name!r} has no samples to mix")
        if self.stop == "all" and not all(self.phases[-1].counts):
            raise PipelineError(
                "with stop='all' no source may end up with weight 0: it would never be gone through"
            )

    def num_positions(self, epoch: int) -> int:
        return _num_positions(self)

    def ids(self, epoch: int, positions: Int64Array) -> Int64Array:
        if not len(positions):
            return positions
        part, turn = self._turns(epoch, positions)
        offsets = np.cumsum([0, *self._sizes])
        sizes = np.array(self._sizes)[part]
        ids = np.empty_like(positions)
        source_epochs, within = np.divmod(turn, sizes)
        for number, sequence in enumerate(self.parts):
            for source_epoch in np.unique(source_epochs[part == number]):
                (here,) = np.nonzero((part == number) & (source_epochs == source_epoch))
                found = sequence.ids(int(source_epoch), within[here])
                ids[here] = offsets[number] + found
        return ids

    def details(self, epoch: int, position: int) -> dict[str, Any]:
        """`sources`: where each stands once `position` samples of the epoch have been taken."""
        drawn = self._drawn_before(epoch) + _drawn(self, self._time(epoch, position))
        places = [divmod(int(count), size) for count, size in zip(drawn, self._sizes, strict=True)]
        return {
            "sources": {
                name: {"epoch": place[0], "position": place[1]}
                for name, place in zip(self.names, places, strict=True)
            }
        }

    def describe(self) -> str:
        shares = ", ".join(
            f"{name} {100 * count / phase.block:.3g} %"
            for phase in self.phases[:1]
            for name, count in zip(self.names, phase.counts, strict=True)
        )
        later = f", {len(self.phases) - 1} changes" if len(self.phases) > 1 else ""
        return f"mixture of {shares}{later}, until {self.stop}, seed {self.seed}"

    def identity(self) -> dict[str, Any]:
        return {
            "shuffle": "mixture",
            "seed": self.seed,
            "stop": self.stop,
            "epoch_samples": self.num_positions(0),
            "weights": [[phase.start, list(phase.counts)] for phase in self.phases],
            "parts": [
                {"name": name, "num_samples": part.num_positions(0), **part.identity()}
                for name, part in zip(self.names, self.parts, strict=True)
            ],
        }

    @property
    def _sizes(self) -> tuple[int, ...]:
        return tuple(part.num_positions(0) for part in self.parts)

    def _time(self, epoch: int, position: int) -> int:
        """Phases count it: positions of the run where the mixture has no end of its own."""
        return epoch * self.num_positions(0) + position if self.stop == "repeat" else position

    def _drawn_before(self, epoch: int) -> Int64Array:
        """Samples of each source that the epochs before took, where time begins anew."""
        if self.stop == "repeat":
            return np.zeros(len(self.parts), np.int64)
        return epoch * _drawn(self, self.num_positions(0))

    def _turns(self, epoch: int, positions: Int64Array) -> tuple[Int64Array, Int64Array]:
        """(which source, the how-manieth sample of it over all epochs) at each position."""
        times = positions + self._time(epoch, 0)
        part, turn = np.empty_like(times), np.empty_like(times)
        starts = np.array([phase.start for phase in self.phases])
        phases = np.searchsorted(starts, times, side="right") - 1
        for number in np.unique(phases):
            phase = self.phases[number]
            base = self._drawn_before(epoch) + _drawn(self, phase.start)
            (here,) = np.nonzero(phases == number)
            blocks, places = np.divmod(times[here] - phase.start, phase.block)
            for block in np.unique(blocks):
                rows, place = here[blocks == block], places[blocks == block]
                labels, counted = _block(self.seed, int(number), phase, int(block))
                before = base + block * np.array(phase.counts)
                part[rows] = labels[place]
                turn[rows] = before[labels[place]] + counted[place]
        return part, turn


@functools.lru_cache(maxsize=64)
def _block(seed: int, number: int, phase: Phase, block: int) -> tuple[Int64Array, Int64Array]:
    """(source, how many of it came before) at each place of a block."""
    turns = block * phase.block + np.arange(phase.block, dtype=np.int64)
    dealt = np.argsort(scatter(turns, (seed, number)), kind="stable")
    labels = np.searchsorted(np.cumsum(phase.counts), dealt, side="right")
    counted = np.empty_like(labels)
    for part in range(len(phase.counts)):
        (here,) = np.nonzero(labels == part)
        counted[here] = np.arange(len(here))
    return labels, counted


@functools.lru_cache(maxsize=256)
def _drawn(mixture: Mixture, time: int) -> Int64Array:
    """How many of each source the first `time` positions take."""
    total = np.zeros(len(mixture.parts), np.int64)
    for number, phase in enumerate(mixture.phases):
        end = mixture.phases[number + 1].start if number + 1 < len(mixture.phases) else time
        length = min(end, time) - phase.start
        if length <= 0:
            break
        whole, rest = divmod(length, phase.block)
        labels, _ = _block(mixture.seed, number, phase, whole)
        total += whole * np.array(phase.counts)
        total += np.bincount(labels[:rest], minlength=len(total))
    return total


@functools.lru_cache(maxsize=64)
def _num_positions(mixture: Mixture) -> int:
    sizes = mixture._sizes
    if mixture.stop == "repeat":
        return mixture.epoch_samples or sum(sizes)
    ends = [end for part, size in enumerate(sizes) if (end := _time_of(mixture, part, size))]
    return min(ends) if mixture.stop == "first" else max(ends)


def _time_of(mixture: Mixture, part: int, num_samples: int) -> int | None:
    """After how many positions so many samples of a source have been taken; None: never."""
    taken = 0
    for number, phase in enumerate(mixture.phases):
        is_last = number + 1 == len(mixture.phases)
        count, missing = phase.counts[part], num_samples - taken
        end = None if is_last else mixture.phases[number + 1].start
        if count:
            whole = (missing - 1) // count
            labels, _ = _block(mixture.seed, number, phase, whole)
            (places,) = np.nonzero(labels == part)
            time = phase.start + whole * phase.block + int(places[missing - whole * count - 1]) + 1
            if end is None or time <= end:
                return time
        if end is not None:
            taken = int(_drawn(mixture, end)[part])
    return None


def phases_of(
    names: Sequence[str],
    schedule: Mapping[int, Mapping[str, float]],
    *,
    samples: Mapping[str, float] | None = None,
) -> tuple[Phase, ...]:
    """Weights by position and name, as phases.  With `samples`, the mean size of a sample of
    each source, weights are shares of that size (of tokens, say) instead of samples."""
    phases = []
    for start, weights in sorted(schedule.items()):
        if set(weights) != set(names):
            raise PipelineError(
                f"weights are given for {sorted(weights)}, the sources are {sorted(names)}"
            )
        shares = [weights[name] / (samples[name] if samples else 1) for name in names]
        phases.append(Phase(start=start, counts=exact_counts(shares)))
    return tuple(phases)
