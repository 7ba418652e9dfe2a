"""The still pictures of a report: bars of shares, stages, percentiles and predictions.

Stands between `html` and the numbers.  Invariant: a chart is drawn from what is there; what
a report lacks gives an empty string, and every word that came from outside is escaped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from iopipe.meter.timeline import QUANTILES
from iopipe.report.style import CAUSE_COLORS

_WIDTH = 1000


def causes_chart(causes: Mapping[str, float]) -> str:
    """One bar, the whole of the wall time: what it was idle for, largest first, and the rest."""
    parts = sorted(((n, v) for n, v in causes.items() if v >= 5e-4), key=lambda p: -p[1])
    rest = max(0.0, 1 - sum(share for _, share in parts))
    rects, keys, left = [], [], 0.0
    for name, share in parts:
        look = f"c-{name}" if name in CAUSE_COLORS else "c-loader"
        rects.append(_rect(look, left, left + share))
        keys.append(f'<li><i class="{look}"></i>{escape(_words(name))} {_percent(share)}</li>')
        left += share
    label = "busy " + _percent(rest) + "".join(f", {n} {_percent(v)}" for n, v in parts)
    keys.append(f'<li><i class="busy-key"></i>busy {_percent(rest)}</li>')
    return (
        f'<div class="whole">{_svg(label, [_rect("rail", 0, 1), *rects])}</div>'
        f'<ul class="legend">{"".join(keys)}</ul>'
    )


def stages_chart(stages: Sequence[Mapping[str, Any]]) -> str:
    """A row a stage: the shares of its threads' time."""
    rows = []
    for stage in stages:
        busy = float(stage.get("busy", 0.0))
        blocked = float(stage.get("blocked", 0.0))
        name, threads = str(stage.get("name", "")), stage.get("threads", 1)
        rects = [
            _rect("rail", 0, 1),
            _rect("fill", 0, busy),
            _rect("pale", busy, busy + blocked),
        ]
        label = f"{name}: busy {_percent(busy)}, waits for room {_percent(blocked)}"
        rows.append(_row(f"{name} x {threads}", label, rects, f"{_percent(busy)} busy"))
    keys = (("key-fill", "busy"), ("key-pale", "waits for room"), ("busy-key", "waits for work"))
    return _bars(rows, keys) if rows else ""


def percentiles_chart(step_ms: Sequence[float], stall_ms: Sequence[float]) -> str:
    """Of all steps: how long the slowest took, and how much of a step had no input."""
    longest = max([*step_ms, *stall_ms], default=0.0)
    if not longest:
        return ""
    rows = []
    for word, look, values in (("step", "fill", step_ms), ("stall", "wait", stall_ms)):
        for share, value in zip(QUANTILES, values, strict=True):
            name = f"{word} p{100 * share:g}"
            rects = [_rect("rail", 0, 1), _rect(look, 0, value / longest)]
            rows.append(_row(name, f"{name}: {in_time(value)}", rects, in_time(value)))
    return _bars(rows, ())


def what_if_chart(changes: Sequence[Mapping[str, Any]], measured: float) -> str:
    """A row a change: the prediction, its interval, the simple bound, and today's rate."""
    rates = [float(c.get(key, 0.0)) for c in changes for key in ("high", "bound")]
    highest = max([measured, *rates])
    if not changes or highest <= 0:
        return ""
    rows = []
    for change in changes:
        rate, low, high = (float(change[k]) for k in ("samples_per_second", "low", "high"))
        rects = [
            _rect("rail", 0, 1),
            _rect("fill", 0, min(rate, low) / highest),
            _rect("pale", low / highest, high / highest),
            _tick("mark", rate / highest),
        ]
        if change.get("bound"):
            rects.append(_tick("bound", float(change["bound"]) / highest))
        now = float(change.get("now", measured))  # older reports lack it
        gain = f"{rate / now:.2f}x, " if now > 0 else ""
        value = f"{gain}{rate:,.0f}/s ({low:,.0f} to {high:,.0f})"
        name = str(change["change"])
        rows.append(_row(name, f"{name}: {value}", rects, value))
    if measured > 0:
        rects = [_rect("rail", 0, 1), _rect("pale", 0, measured / highest)]
        rows.append(_row("as measured", "as measured", rects, f"{measured:,.0f}/s"))
    keys = (
        ("key-mark", "predicted"),
        ("key-pale", "interval"),
        ("key-bound", "simple bound"),
    )
    return _bars(rows, keys)


def in_time(milliseconds: float) -> str:
    """Three digits in the unit that suits: 412 µs, 9.53 ms, 1.20 s."""
    for scale, unit in ((1e3, "µs"), (1.0, "ms"), (1e-3, "s")):
        value = milliseconds * scale
        if value < 999.5 or unit == "s":
            digits = 0 if value >= 99.95 or not value else 1 if value >= 9.995 else 2
            return f"{value:,.{digits}f} {unit}"
    raise AssertionError("the last unit holds every value")


def _words(name: str) -> str:
    return {"h2d": "copy to the GPU", "gpu_decode": "GPU decode", "other_host": "other host"}.get(
        name, name
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _bars(rows: Iterable[str], keys: Sequence[tuple[str, str]]) -> str:
    items = "".join(f'<li><i class="{look}"></i>{word}</li>' for look, word in keys)
    legend = f'<ul class="legend">{items}</ul>' if items else ""
    return f'<div class="card"><div class="bars">{"".join(rows)}</div>{legend}</div>'


def _row(name: str, label: str, rects: Sequence[str], value: str) -> str:
    return (
        f'<div class="bar"><span class="name">{escape(name)}</span>{_svg(label, rects)}'
        f'<span class="value">{escape(value)}</span></div>'
    )


def _svg(label: str, rects: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {_WIDTH} 10" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(label)}">{"".join(rects)}</svg>'
    )


def _rect(look: str, left: float, right: float) -> str:
    left, right = (_WIDTH * min(max(edge, 0.0), 1.0) for edge in (left, right))
    width = max(right - left, 0.0)
    return f'<rect class="{look}" x="{left:.2f}" width="{width:.2f}" y="0" height="10"/>'


def _tick(look: str, place: float) -> str:
    left = min(_WIDTH * place, _WIDTH - 4)
    return f'<rect class="{look}" x="{left:.2f}" width="4" y="0" height="10"/>'
