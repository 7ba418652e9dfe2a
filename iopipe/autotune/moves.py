"""What could be turned next, the most promising first, each with its reason.

Stands under the policy.  Invariant: a function of what was measured and nothing else; every
move changes the values by a factor, so that there are few of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from iopipe.autotune.measurement import Measurement
from iopipe.autotune.setting import Knob, Values

_BUSY = 0.7
_SOMEWHAT_BUSY = 0.25
_ON_CORE = 0.5

Refusal = Callable[[Values], str]
"""Why values must not be set; empty where they may be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """Other values, and why they might be better."""

    values: dict[str, int]
    reason: str


def moves(
    knobs: Sequence[Knob], now: Values, measured: Measurement, refused: Refusal
) -> Iterator[Move]:
    """Those that the budget lets through, the most promising first."""
    workers = [knob for knob in knobs if knob.kind in ("threads", "processes")]
    ranked = sorted(workers, key=lambda knob: -measured.busy.get(knob.name, 0.0))
    busy = [knob for knob in ranked if measured.busy.get(knob.name, 0.0) >= _BUSY]
    rest = [knob for knob in ranked if _BUSY > measured.busy.get(knob.name, 0.0) >= _SOMEWHAT_BUSY]
    sizes = [knob for knob in knobs if knob.kind == "read_size"]
    depths = [knob for knob in knobs if knob.kind == "depth"]
    if len(busy) > 1:
        yield from _grown(busy, now, refused, _busy_reason(busy, measured))
    for knob in busy:
        yield from _grown([knob], now, refused, _busy_reason([knob], measured))
    if measured.causes.get("storage", 0.0) > 0:
        reason = f"storage is waited for {100 * measured.causes['storage']:.0f} % of the time"
        for knob in sizes:
            yield from _grown([knob], now, refused, reason)
    for knob in depths:
        yield from _grown([knob], now, refused, "bursts of waits: batches ahead cover them")
    for knob in rest:
        yield from _grown([knob], now, refused, _busy_reason([knob], measured))
    for knob in sizes:
        yield from _shrunk(knob, now, refused, "smaller parts let more threads share a batch")
    for knob in ranked:
        if measured.on_core.get(knob.name, 0.0) > _ON_CORE:
            yield from _shrunk(knob, now, refused, "its threads may be in each other's way")


def _grown(knobs: Sequence[Knob], now: Values, refused: Refusal, reason: str) -> Iterator[Move]:
    """Twice as much, or as far as the budget goes: of several knobs all, or those that can."""
    able = [knob for knob in knobs if _steps(knob, now, refused)]
    if len(able) < len(knobs) and len(able) < 2 and len(knobs) > 1:
        return  # a single one is a move of its own
    values = dict(now)
    for knob in able:
        values[knob.name] = next(iter(_steps(knob, values, refused)), values[knob.name])
    if values != dict(now):
        yield Move(values=values, reason=reason)


def _steps(knob: Knob, now: Values, refused: Refusal) -> list[int]:
    value = now[knob.name]
    wanted = sorted({min(2 * value, knob.most), value + value // 2, value + 1}, reverse=True)
    return [
        one for one in wanted if value < one <= knob.most and not refused({**now, knob.name: one})
    ]


def _shrunk(knob: Knob, now: Values, refused: Refusal, reason: str) -> Iterator[Move]:
    value = max(knob.least, now[knob.name] // 2)
    values = {**now, knob.name: value}
    if value < now[knob.name] and not refused(values):
        yield Move(values=values, reason=reason)


def _busy_reason(knobs: Sequence[Knob], measured: Measurement) -> str:
    said = [f"{100 * min(1.0, measured.busy[knob.name]):.0f} % for {knob.name}" for knob in knobs]
    return f"busy {', '.join(said)}"


def difference(before: Values, after: Mapping[str, int]) -> str:
    """'decode.threads 1 -> 2, prefetch 2 -> 4'"""
    return ", ".join(
        f"{name} {before[name]} -> {value}"
        for name, value in after.items()
        if value != before[name]
    )
