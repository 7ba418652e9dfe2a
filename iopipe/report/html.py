"""`report.html`: one self-contained page that says whether the step starved, and shows it.

Stands at the end of the flow.  Invariant: the page loads nothing and runs nothing but the
script beside this file, and every word that came from outside is escaped.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from html import escape
from importlib.resources import files
from typing import Any

from iopipe.meter.history import History
from iopipe.meter.timeline import Timeline
from iopipe.report.charts import (
    causes_chart,
    in_time,
    percentiles_chart,
    stages_chart,
    what_if_chart,
)
from iopipe.report.content import Reported, content_of, timeline_of
from iopipe.report.page import page, write_at_once
from iopipe.report.style import CAUSE_COLORS


def write_html(
    report: Reported | Mapping[str, Any],
    history: History | Timeline,
    path: str | os.PathLike[str],
    *,
    title: str = "iopipe report",
) -> None:
    """Write the page, in one step.

    `report` is a meter's report, or the JSON of one; keys that it lacks are not drawn.
    """
    content, timeline = content_of(report), timeline_of(history)
    script = files("iopipe.report").joinpath("timeline.js").read_text(encoding="utf-8")
    data = {**timeline.to_json(), "colors": dict(CAUSE_COLORS)}
    parts = [part for part in _parts(title, content, timeline) if part]
    write_at_once(path, page(title, parts, script=script, data=data))


def _parts(title: str, content: Mapping[str, Any], timeline: Timeline) -> Iterator[str]:
    yield f"<h1>{escape(title)}</h1>"
    # A verdict is its finding, then the evidence.
    finding, _, evidence = str(content.get("verdict", "")).partition("; ")
    yield f'<p class="verdict">{escape(finding)}</p>'
    if evidence:
        yield f'<p class="lead">{escape(evidence)}</p>'
    if reason := content.get("low_confidence"):
        yield f'<p class="lead">Low confidence: {escape(str(reason))}</p>'
    yield _tiles(content, timeline)
    if causes := content.get("causes"):
        yield causes_chart({str(name): float(share) for name, share in causes.items()})
    yield _steps(timeline)
    measured = float(content.get("samples_per_second", 0.0))
    yield from _section(
        "What if",
        what_if_chart(content.get("what_if", ()), measured),
        "Samples per second, predicted by replaying the recorded steps with the change made.",
    )
    yield from _section(
        "Stages",
        stages_chart(content.get("stages", ())),
        "Share of its threads' time. A stage that is always busy is the slow one; those in "
        "front of it wait for room, those behind it for work.",
    )
    yield from _section(
        "Latency",
        percentiles_chart(timeline.step_ms, timeline.stall_ms),
        "Of all steps of the run: p99.9 is what one step in a thousand exceeds. Stall: the part "
        "of a step in which its input was missing.",
    )
    yield from _section("Environment", _pairs(content.get("environment", {})), "")
    yield (
        "<footer>Attributed: the stream was idle and the input was not there. Recoverable: what "
        "the same steps would have taken less with every batch there when asked for.</footer>"
    )


def _tiles(content: Mapping[str, Any], timeline: Timeline) -> str:
    shown: list[tuple[str, str]] = []
    for key, word in (
        ("attributed_stall_fraction", "attributed stall"),
        ("recoverable_stall_fraction", "recoverable stall"),
    ):
        if key in content:
            shown.append((f"{100 * float(content[key]):.1f} %", word))
    if rate := content.get("samples_per_second"):
        shown.append((f"{float(rate):,.0f}", "samples per second"))
    shown.append((f"{int(content.get('num_steps', timeline.num_steps)):,}", "steps"))
    if "wall_seconds" in content:
        shown.append((in_time(1e3 * float(content["wall_seconds"])), "measured"))
    tiles = "".join(
        f'<div class="tile"><b>{escape(number)}</b><span>{word}</span></div>'
        for number, word in shown
    )
    return f'<div class="tiles">{tiles}</div>'


def _steps(timeline: Timeline) -> str:
    """The place where the script draws, and what is there without it."""
    if not timeline.num_steps:
        return "<h2>Steps over time</h2><p>no steps were measured</p>"
    return (
        '<div class="head"><h2>Steps over time</h2><div class="buttons">'
        '<button id="in" aria-label="zoom in">+</button>'
        '<button id="out" aria-label="zoom out">&minus;</button>'
        '<button id="all">All</button><button id="end">Last steps</button></div></div>'
        '<div class="card">'
        '<canvas id="steps" tabindex="0" role="img" aria-label="step time and idle share over '
        'time; arrow keys move, plus and minus zoom"></canvas>'
        '<canvas id="overview" aria-hidden="true"></canvas>'
        '<p id="readout" aria-live="polite"></p>'
        "<noscript>The picture needs the script in this page.</noscript></div>"
        '<p class="note">Above: the time of a step, mean as a line, shortest to longest as a '
        "band; red marks at its top are steps beyond the scale. Below: the share of the time that "
        "was idle, by cause. Wheel or pinch to zoom, drag to move. The last steps are kept one "
        "by one, older ones several together.</p>"
    )


def _section(title: str, chart: str, note: str) -> Iterator[str]:
    if chart:
        yield f"<h2>{title}</h2>{chart}"
        if note:
            yield f'<p class="note">{note}</p>'


def _pairs(values: Mapping[str, Any]) -> str:
    items = "".join(
        f"<dt>{escape(str(name))}</dt><dd>{escape(str(value))}</dd>"
        for name, value in values.items()
    )
    return f"<dl>{items}</dl>" if items else ""
