"""How well an order mixes, and what it makes storage read.

Stands beside the shuffles, for whoever has to choose one.  Invariant: looks at a few thousand
positions and reads nothing but the dataset's index.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from iopipe.order.permutation import permute
from iopipe.order.shuffles import EpochSequence
from iopipe.protocols import ByteRange, Int64Array, Source

_NUM_PROBES = 16_384
_NUM_BATCHES = 256
_KEY = (0x6F72646572, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderQuality:
    """How far an epoch's sequence is from a random one."""

    neighbour_distance: float
    """Between samples that follow each other, over what chance gives: near 1 as by chance,
    near 0 as stored."""
    position_correlation: float
    """Between position and sample (Pearson): near 0 as by chance, 1 as stored."""
    independent_samples: float
    """A batch tells as much of the dataset as so many samples drawn at random, judged by how
    its mean id scatters: at best the batch size, 1 where a batch is one stretch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadCost:
    """What storage reads for an order if it can only read whole units."""

    unit_bytes: int
    amplification: float
    """Bytes read over bytes used: near 1 nothing is wasted."""
    reads_per_1000_samples: float
    """Stretches of units that lie side by side count as one read."""


def order_quality(
    sequence: EpochSequence, *, batch_size: int = 256, epoch: int = 0
) -> OrderQuality:
    """Judged by positions that are spread over the epoch; needs two samples at least."""
    num = sequence.num_positions(epoch)
    probes = _spread(num - 1, _NUM_PROBES)
    here = sequence.ids(epoch, probes)
    distance = np.abs(sequence.ids(epoch, probes + 1) - here).mean()
    batch = min(batch_size, num)
    starts = _spread(max(num // batch, 1), _NUM_BATCHES) * batch
    places = (starts[:, None] + np.arange(batch)).ravel()
    means = sequence.ids(epoch, places).reshape(len(starts), batch).mean(axis=1)
    # The mean of n numbers drawn from 0 .. num - 1 has the variance num**2 / 12 / n.
    scatter = ((means - (num - 1) / 2) ** 2).mean()
    return OrderQuality(
        neighbour_distance=float(distance / (num / 3)),
        position_correlation=_correlation(probes, here),
        independent_samples=min(float(num**2 / 12 / scatter), batch) if scatter else float(batch),
    )


def read_cost(
    source: Source,
    sequence: EpochSequence,
    *,
    unit_bytes: int,
    memory_bytes: int = 1 << 30,
    epoch: int = 0,
) -> ReadCost:
    """For a reader that keeps `memory_bytes` of samples and so uses a unit that it has read
    for all of them; judged by three stretches of the epoch of that size."""
    num = sequence.num_positions(epoch)
    some = _spread(num, 64)
    probed = source.ranges(sequence.ids(epoch, some))
    sample_bytes = sum(part.length for part in probed) / len(some)
    stretch = int(min(max(memory_bytes / max(sample_bytes, 1), 1), num, 65_536))
    starts = {0, (num - stretch) // 2, num - stretch}
    used = read = reads = 0
    for start in starts:
        ids = sequence.ids(epoch, np.arange(start, start + stretch))
        ranges = source.ranges(np.sort(ids))
        used += sum(part.length for part in ranges)
        num_units, num_stretches = _units(ranges, unit_bytes)
        read += num_units * unit_bytes
        reads += num_stretches
    return ReadCost(
        unit_bytes=unit_bytes,
        amplification=read / max(used, 1),
        reads_per_1000_samples=1000 * reads / (stretch * len(starts)),
    )


def _units(ranges: Sequence[ByteRange], unit_bytes: int) -> tuple[int, int]:
    """(units that the ranges touch, stretches of such units)."""
    paths = {path: number for number, path in enumerate(dict.fromkeys(r.path for r in ranges))}
    gap = 1 + max((part.offset + part.length for part in ranges), default=0) // unit_bytes
    touched: set[int] = set()
    for part in ranges:
        base = 2 * gap * paths[part.path]
        first, last = part.offset // unit_bytes, (part.offset + part.length - 1) // unit_bytes
        touched.update(range(base + first, base + last + 1))
    units = np.sort(np.fromiter(touched, np.int64, len(touched)))
    return len(units), int(1 + np.count_nonzero(np.diff(units) > 1)) if len(units) else 0


def _spread(num: int, most: int) -> Int64Array:
    """At most so many of 0 .. num - 1, at random, the same in every call."""
    if num <= most:
        return np.arange(num)
    places = np.linspace(0, num - 1, most).astype(np.int64)
    width = max(num // most, 1)
    jitter = permute(np.arange(most), most, _KEY) % width
    spread: Int64Array = np.minimum(places + jitter, num - 1)
    return spread


def _correlation(positions: Int64Array, ids: Int64Array) -> float:
    if len(positions) < 2 or not positions.std() or not ids.std():
        return 0.0
    found = float(np.corrcoef(positions, ids)[0, 1])
    return 0.0 if math.isnan(found) else found
