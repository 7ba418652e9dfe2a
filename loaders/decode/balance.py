"""How much of each batch every lane gets, from how fast the lanes were: plain arithmetic.

Stands under the engine 'hybrid'.  Invariant: shares add up to 1 and each is at least
`_LEAST`, so that no lane goes unmeasured; the same measurements give the same shares.

Lanes that start together are balanced when they end together.  With t_i the seconds that lane
i took for a share s_i, s_i / t_i is its rate, fixed costs included, and shares in proportion
to the rates make the times equal where they are constant; where a fixed cost is part of them
the next measurement corrects the rest.  Half of the way is gone at a time, so that a share
never steps over its goal, and none at all where the times differ by less than `_DEAD_BAND`:
noise moves nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

_LEAST = 1 / 256
_STEP = 0.5
_MEMORY = 0.7
"""How much of the smoothed seconds of a unit of work stays at each measurement."""
_DEAD_BAND = 0.05


class Balancer:
    """Shares of `num_lanes` lanes; for one thread at a time."""

    def __init__(self, shares: Sequence[float]) -> None:
        """`shares`: to begin with, by what is known beforehand."""
        self._shares = _normal(shares)
        self._costs: list[float | None] = [None] * len(self._shares)

    @property
    def shares(self) -> tuple[float, ...]:
        return self._shares

    def measured(self, work: Sequence[float], seconds: Sequence[float]) -> None:
        """Each lane did so much work (pixels, say) in so many seconds; 0 of it says nothing."""
        for lane, (amount, time) in enumerate(zip(work, seconds, strict=True)):
            if amount <= 0 or time <= 0:
                continue
            cost, known = time / amount, self._costs[lane]
            mixed = cost if known is None else _MEMORY * known + (1 - _MEMORY) * cost
            self._costs[lane] = mixed
        self._move()

    def _move(self) -> None:
        costs = [cost for cost in self._costs if cost is not None]
        if len(costs) < len(self._shares):
            return
        times = [share * cost for share, cost in zip(self._shares, costs, strict=True)]
        if max(times) <= (1 + _DEAD_BAND) * min(times):
            return
        goals = _normal([1 / cost for cost in costs])
        self._shares = _normal(
            [
                share + _STEP * (goal - share)
                for share, goal in zip(self._shares, goals, strict=True)
            ]
        )


def parted(order: Sequence[int], work: Sequence[float], shares: Sequence[float]) -> list[list[int]]:
    """Rows in `order`, cut where the sum of their `work` passes each lane's share of it."""
    total = sum(work[row] for row in order)
    parts: list[list[int]] = [[] for _ in shares]
    lane, done, end = 0, 0.0, shares[0] * total
    for row in order:
        while lane < len(shares) - 1 and done + work[row] / 2 > end:
            lane += 1
            end += shares[lane] * total
        parts[lane].append(row)
        done += work[row]
    return parts


def _normal(shares: Sequence[float]) -> tuple[float, ...]:
    """Of sum 1, none below the least."""
    total = sum(shares)
    raised = [max(share / total, _LEAST) for share in shares]
    spare = 1 - _LEAST * len(raised)
    above = sum(share - _LEAST for share in raised)
    if above <= 0:
        return tuple(1 / len(raised) for _ in raised)
    return tuple(_LEAST + (share - _LEAST) * spare / above for share in raised)
