"""Curves as SVG: lines of several series over two axes, linear or logarithmic.

Stands under `html`.  Invariant: every point that was measured is a mark with its numbers as a
title; a word that came from outside is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

NUM_LOOKS = 8
_WIDTH, _HEIGHT = 640.0, 320.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 84.0, 16.0, 14.0, 44.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    name: str
    points: Sequence[tuple[float, float]]
    """(x, y), by x; both more than 0."""
    look: int
    """Which colour and mark, 0 to NUM_LOOKS - 1; the same series looks the same everywhere."""
    dashed: bool = False
    titles: Sequence[str] = ()
    has_marks: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    label: str
    write: Callable[[float], str]
    log: float = 0.0
    """Base of the logarithm; 0 for a linear axis that begins at 0."""


def curves(series: Sequence[Series], *, x: Axis, y: Axis, label: str) -> str:
    """A figure with its legend; '' without a point."""
    points = [point for one in series for point in one.points]
    if not points:
        return ""
    across = _Scale(x, [p[0] for p in points], _LEFT, _WIDTH - _RIGHT)
    up = _Scale(y, [p[1] for p in points], _HEIGHT - _BOTTOM, _TOP)
    parts = [*_grid(across, up, x, y), *(_drawn(one, across, up) for one in series)]
    keys = "".join(
        f'<li><svg class="key" viewBox="-14 -7 28 14">'
        f'<path class="{_look(one)}" d="M-14 0H14"/>{_mark(one, 0, 0, "")}</svg>'
        f"{escape(one.name)}</li>"
        for one in series
    )
    return (
        f'<div class="card"><svg class="curves" viewBox="0 0 {_WIDTH:g} {_HEIGHT:g}" role="img" '
        f'aria-label="{escape(label)}">{"".join(parts)}</svg>'
        f'<ul class="legend">{keys}</ul></div>'
    )


class _Scale:
    """From values to places on the picture."""

    def __init__(self, axis: Axis, values: Sequence[float], start: float, end: float) -> None:
        self._axis, self._start, self._end = axis, start, end
        low, high = min(values), max(values)
        if axis.log:
            self.ticks = _powers(low, high, axis.log)
            low, high = min(low, self.ticks[0]), max(high, self.ticks[-1])
            self._low, self._high = math.log(low), math.log(high)
        else:
            self.ticks = _steps(high)
            self._low, self._high = 0.0, self.ticks[-1]
        if self._high == self._low:
            self._low, self._high = self._low - 1, self._high + 1

    def __call__(self, value: float) -> float:
        at = math.log(value) if self._axis.log else value
        share = (at - self._low) / (self._high - self._low)
        return self._start + share * (self._end - self._start)


def _powers(low: float, high: float, base: float) -> list[float]:
    """Powers of `base` around all values, at most about eight of them."""
    first, last = math.floor(math.log(low, base) + 1e-9), math.ceil(math.log(high, base) - 1e-9)
    step = -(-(last - first) // 8) or 1
    return [base**power for power in range(first, last + step, step)]


def _steps(high: float) -> list[float]:
    """From 0 up to `high` or a little more in four to ten round steps."""
    size = 10.0 ** math.floor(math.log10(high / 4))
    step = next(size * factor for factor in (1, 2, 5, 10) if high / (size * factor) <= 8)
    return [step * number for number in range(math.ceil(high / step - 1e-9) + 1)]


def _grid(across: _Scale, up: _Scale, x: Axis, y: Axis) -> list[str]:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    parts = []
    for value in up.ticks:
        at = up(value)
        parts.append(f'<path class="grid" d="M{_LEFT:g} {at:.1f}H{right:g}"/>')
        parts.append(
            f'<text x="{_LEFT - 8:g}" y="{at + 4:.1f}" text-anchor="end">{escape(y.write(value))}'
            "</text>"
        )
    for value in across.ticks:
        at = across(value)
        parts.append(f'<path class="grid" d="M{at:.1f} {_TOP:g}V{bottom:g}"/>')
        parts.append(
            f'<text x="{at:.1f}" y="{bottom + 17:g}" text-anchor="middle">'
            f"{escape(x.write(value))}</text>"
        )
    middle = (_LEFT + right) / 2
    parts.append(
        f'<text class="label" x="{middle:g}" y="{_HEIGHT - 6:g}" text-anchor="middle">'
        f"{escape(x.label)}</text>"
    )
    half = (_TOP + bottom) / 2
    parts.append(
        f'<text class="label" transform="translate(14 {half:g}) rotate(-90)" '
        f'text-anchor="middle">{escape(y.label)}</text>'
    )
    return parts


def _drawn(series: Series, across: _Scale, up: _Scale) -> str:
    places = [(across(x), up(y)) for x, y in series.points]
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    titles = series.titles or [""] * len(places)
    marks = [
        _mark(series, x, y, title) for (x, y), title in zip(places, titles, strict=True)
    ] * series.has_marks
    return f'<path class="{_look(series)}" d="M{path}"/>{"".join(marks)}'


def _look(series: Series) -> str:
    return f"line s{series.look % NUM_LOOKS}" + " dashed" * series.dashed


def _mark(series: Series, x: float, y: float, title: str) -> str:
    """A circle, square, diamond or triangle: told apart without colours too."""
    if not series.has_marks:
        return ""
    shapes = ("M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0", "M-3.6-3.6h7.2v7.2h-7.2z", "M0-5L5 0L0 5L-5 0z")
    shape = (*shapes, "M0-4.6L4.8 3.8H-4.8z")[series.look % 4]
    shown = f"<title>{escape(title)}</title>" if title else ""
    look = f"mark-of s{series.look % NUM_LOOKS}"
    return f'<path class="{look}" transform="translate({x:.1f} {y:.1f})" d="{shape}">{shown}</path>'
