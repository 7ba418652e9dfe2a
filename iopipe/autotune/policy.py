"""From measurements to the next setting: hill climbing that ends, and begins again when it must.

Stands between the tuner, which measures and turns, and the moves.  Invariant: no setting is
tried more than twice while the load is the same, so that under a constant load the number of
moves is finite; nothing is ever set that the budget refuses.

    climbing   measure, try the most promising move, keep it if more samples come through by more
               than noise, else undo it; fed over three windows, or nothing left to try: settled
    undone     what is kept is measured again after a move that seemed to do harm, and before
               settling; where it is slower than it was, others use the machine more than before,
               and what was undone meanwhile is tried once more, and only once
    settled    watch; where starvation or rate differ from what was settled for, in several
               windows in a row, the load has changed: climb again from here; likewise where it
               was fed when it settled and starves over several windows together, in bursts
    patience   a climb that changed nothing makes the next one wait twice as many windows
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from iopipe.autotune.budget import Budget
from iopipe.autotune.measurement import Measurement
from iopipe.autotune.moves import Move, difference, moves
from iopipe.autotune.setting import Knob, Values

_FED = 0.02
"""Starved less than this: nothing could be noticed any more."""
_FED_BY_CHANCE = 0.04
"""Starved more than this by many windows, where few said fed: they fell between two bursts."""
_MIN_GAIN = 0.02
_MAX_NOISE = 0.10
_CLEARLY_WORSE = -0.10
_MAX_WINDOWS = 3
"""Of one trial that could be either, and of what seems fed."""
_CHANGED_RATE = 0.25
_CHANGED_STARVED = 0.10
_PATIENCE = 2
_MAX_PATIENCE = 256
_STALE_UNDOS = 3

Key: TypeAlias = frozenset[tuple[str, int]]

What: TypeAlias = Literal["try", "keep", "undo", "settle", "climb"]


class Needs(Protocol):
    """How much of each resource values take, in bytes."""

    def __call__(self, values: Values) -> Mapping[str, int]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What was done, and on what evidence."""

    what: What
    change: str
    """'decode.threads 1 -> 2'; empty where nothing was turned."""
    evidence: str

    def __str__(self) -> str:
        return (
            f"{self.what} {self.change}: {self.evidence}"
            if self.change
            else (f"{self.what}: {self.evidence}")
        )


class Policy:
    """The state machine; `observe` is told of window after window."""

    def __init__(
        self, knobs: Sequence[Knob], values: Values, *, budget: Budget, needs: Needs
    ) -> None:
        self._knobs = tuple(knobs)
        self._by_name = {knob.name: knob for knob in knobs}
        self._budget = budget
        self._needs = needs
        self.values: dict[str, int] = dict(values)
        """What should be set now."""
        self.is_settled = False
        self.kept: dict[str, int] = dict(values)
        """The best that was found; differs from `values` while something is tried."""
        self._base: Measurement | None = None
        self._trial: Move | None = None
        self._seen: Measurement | None = None
        self._num_windows = 0
        self._num_fed = 0
        """Windows in a row that said fed, `_base` over all of them."""
        self._visited = {_key(values)}
        self._undone: set[Key] = set()
        """Since what is kept was measured."""
        self._given_back: set[Key] = set()
        """Those that may have been undone wrongly: they get no third chance."""
        self._before: Measurement | None = None
        """What is kept, as it was measured last, where it is being measured again."""
        self._num_changed = 0
        self._watched: Measurement | None = None
        """Windows since it settled, a stretch of them at a time."""
        self._num_watched = 0
        self._stretch = _PATIENCE
        """Windows; twice as long after each that said something else than single ones had."""
        self._patience = _PATIENCE
        self._climb_began_at = _key(values)

    def observe(self, measured: Measurement) -> list[Decision]:
        """Take in a window that was made with `values`; what was decided, if anything."""
        if self.is_settled:
            return self._watch(measured)
        if self._trial is not None:
            return self._judge(self._trial, measured)
        if self._num_fed and self._base is not None:
            self._base = self._base.and_then(measured)
        else:
            self._base = measured
            self._doubt(measured)
        return self._next(self._base)

    # ---- climbing --------------------------------------------------------------------

    def _doubt(self, base: Measurement) -> None:
        """Of what is kept, measured again: were the moves since then judged by too high a mark?"""
        before, self._before = self._before, None
        if before is not None and base.rate < (1 + _CLEARLY_WORSE) * before.rate:
            again = self._undone - self._given_back
            self._visited -= again
            self._given_back |= again
        self._undone = set()

    def _measure_again(self) -> None:
        self._before, self._base = self._base, None

    def _next(self, base: Measurement) -> list[Decision]:
        if base.starved < _FED:
            self._num_fed += 1
            if self._num_fed < _MAX_WINDOWS:
                return []  # bursts may lie further apart than one window is long
            return [self._settle(f"fed, starved {100 * base.starved:.1f} %")]
        self._num_fed = 0
        for move in moves(self._knobs, self.kept, base, lambda new: self._refusal(new, base)):
            if _key(move.values) in self._visited:
                continue
            self._visited.add(_key(move.values))
            self._trial, self._seen, self._num_windows = move, None, 0
            self.values = dict(move.values)
            change = difference(self.kept, move.values)
            evidence = f"starved {100 * base.starved:.0f} %{_most(base.causes)}; {move.reason}"
            return [Decision(what="try", change=change, evidence=evidence)]
        if self._undone:
            self._measure_again()
            return []
        starved = f"starved {100 * base.starved:.0f} %{_most(base.causes)}"
        return [self._settle(f"{starved}, nothing is left to try within the budget")]

    def _judge(self, trial: Move, measured: Measurement) -> list[Decision]:
        base = self._base
        assert base is not None
        seen = measured if self._seen is None else self._seen.and_then(measured)
        self._seen = seen
        self._num_windows += 1
        gain = seen.rate / base.rate - 1
        noise = min(_MAX_NOISE, max(_MIN_GAIN, 2 * math.hypot(seen.error, base.error)))
        if _CLEARLY_WORSE < gain < noise and self._num_windows < _MAX_WINDOWS and gain > -noise:
            return []
        rates = f"{base.rate:,.0f} to {seen.rate:,.0f} samples/s ({100 * gain:+.0f} %)"
        change = difference(self.kept, trial.values)
        self._trial = self._seen = None
        if gain >= _MIN_GAIN:
            self.kept, self._base, self._undone = dict(trial.values), seen, set()
            return [Decision(what="keep", change=change, evidence=rates), *self._next(seen)]
        back = difference(trial.values, self.kept)
        self.values = dict(self.kept)
        self._undone.add(_key(trial.values))
        undone = Decision(what="undo", change=back, evidence=rates)
        if gain < _CLEARLY_WORSE or len(self._undone) >= _STALE_UNDOS:
            self._measure_again()
            return [undone]
        return [undone, *self._next(base)]

    def _settle(self, evidence: str) -> Decision:
        self.is_settled = True
        self._num_fed = 0
        self._watched, self._num_watched, self._num_changed = None, 0, 0
        fruitless = _key(self.kept) == self._climb_began_at
        self._patience = min(_MAX_PATIENCE, 2 * self._patience) if fruitless else _PATIENCE
        self.values = dict(self.kept)
        return Decision(what="settle", change="", evidence=evidence)

    # ---- settled ---------------------------------------------------------------------

    def _watch(self, measured: Measurement) -> list[Decision]:
        reference = self._base
        assert reference is not None
        now = self._changed(measured, reference)
        if now is None:
            return []
        self._base = now
        if now.starved < _FED:
            return []  # lighter than before: fed all the more
        self.is_settled = False
        self._visited = {_key(self.kept)}
        self._given_back, self._undone = set(), set()
        self._climb_began_at = _key(self.kept)
        evidence = (
            f"the load has changed: starved {100 * reference.starved:.0f} % before, "
            f"{100 * now.starved:.0f} % now, {reference.rate:,.0f} samples/s before, "
            f"{now.rate:,.0f} now"
        )
        return [Decision(what="climb", change="", evidence=evidence), *self._next(now)]

    def _changed(self, measured: Measurement, reference: Measurement) -> Measurement | None:
        """What the load has become, once enough windows say so; None while it is the same."""
        self._watched = measured if self._watched is None else self._watched.and_then(measured)
        self._num_watched += 1
        self._num_changed = self._num_changed + 1 if _differs(measured, reference) else 0
        if self._num_changed >= self._patience:
            self._watched, self._num_watched, self._num_changed = None, 0, 0
            return measured
        if self._num_watched < self._stretch:
            return None
        together, self._watched, self._num_watched = self._watched, None, 0
        if reference.starved >= _FED or together.starved <= _FED_BY_CHANCE:
            return None
        self._stretch = min(_MAX_PATIENCE, 2 * self._stretch)
        return together

    def _refusal(self, values: Values, measured: Measurement) -> str:
        return self._budget.refusal(
            self._by_name, values, self.kept, measured=measured, needed=self._needs(values)
        )


def _differs(now: Measurement, before: Measurement) -> bool:
    slower = abs(now.rate - before.rate) > _CHANGED_RATE * before.rate
    return slower or abs(now.starved - before.starved) > _CHANGED_STARVED


def _key(values: Values) -> Key:
    return frozenset(values.items())


def _most(causes: Mapping[str, float]) -> str:
    if not causes:
        return ""
    cause = max(causes, key=lambda one: causes[one])
    return f" ({cause} {100 * causes[cause]:.0f} %)"
