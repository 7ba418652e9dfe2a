"""Several runs on one page: verdict, table, a picture of every run's steps.

Stands at the end of the demo.  Invariant: the page loads nothing and runs nothing, and
every word that came from outside is escaped.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from html import escape

from iopipe.meter.report import EdgeReport, Report, Step
from iopipe.protocols import Cause
from iopipe.report.page import page, write_at_once
from iopipe.report.style import CAUSE_COLORS

_WIDTH = 1000
_MAX_BARS = 800
"""Steps beyond this many are drawn several to a bar: thinner ones could not be seen."""


def write_comparison(
    path: str | os.PathLike[str],
    *,
    title: str,
    verdict: str,
    table: Sequence[Mapping[str, object]],
    runs: Sequence[tuple[str, Report]],
    environment: Mapping[str, str],
) -> None:
    """Write the page, in one step.

    `table` has one mapping a row, all with the same keys; `runs` are (name, report), drawn
    one below the other on the same scale of time.
    """
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="verdict">{escape(verdict)}</p>',
        _table(table),
        "<h2>Steps over time</h2>",
        *_pictures(runs),
        "<h2>Environment</h2>",
        _pairs(environment),
        "<footer>Starved: the compute stream had nothing to do because its input was not "
        "there. Each bar is a step, or several; the coloured part of its height is the "
        "starved share of its time.</footer>",
    ]
    write_at_once(path, page(title, parts))


def _table(rows: Sequence[Mapping[str, object]]) -> str:
    head = "".join(f"<th>{escape(str(name))}</th>" for name in (rows[0] if rows else ()))
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(str(value))}</td>" for value in row.values()) + "</tr>"
        for row in rows
    )
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _pictures(runs: Sequence[tuple[str, Report]]) -> Iterator[str]:
    longest_ns = max((_end_ns(report) for _, report in runs), default=0)
    for name, report in runs:
        yield (
            f'<section class="run"><h3>{escape(name)}</h3><p>{escape(report.verdict)}</p>'
            f"{_timeline(name, report, longest_ns)}{_legend(report)}{_numbers(report)}"
            f"{_stages(report)}</section>"
        )


def _end_ns(report: Report) -> int:
    if not report.steps:
        return 0
    return report.steps[-1].start_ns + report.steps[-1].duration_ns - report.steps[0].start_ns


def _timeline(name: str, report: Report, longest_ns: int) -> str:
    """Every step as a bar: its width is its time, its coloured part the starved share."""
    if not report.steps or not longest_ns:
        return "<p>no steps were measured</p>"
    origin_ns = report.steps[0].start_ns
    bars = "".join(_bar(group, origin_ns, longest_ns) for group in _groups(report.steps))
    label = f"Steps of {name}: {report.verdict}"
    return (
        f'<svg viewBox="0 0 {_WIDTH} 100" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(label)}">{bars}</svg>'
        f'<div class="axis"><span>0 s</span><span>{longest_ns / 2e9:.1f} s</span>'
        f"<span>{longest_ns / 1e9:.1f} s</span></div>"
    )


def _groups(steps: Sequence[Step]) -> Iterator[Sequence[Step]]:
    size = -(-len(steps) // _MAX_BARS)
    return (steps[first : first + size] for first in range(0, len(steps), size))


def _bar(steps: Sequence[Step], origin_ns: int, longest_ns: int) -> str:
    duration_ns = sum(step.duration_ns for step in steps) or 1
    causes_ns: dict[Cause, int] = {}
    for step in steps:
        causes_ns[step.cause] = causes_ns.get(step.cause, 0) + step.stall_ns
    start_ns = steps[0].start_ns - origin_ns
    # Edges are rounded, not widths: neighbours share theirs, and no seam shows between them.
    left = round(_WIDTH * start_ns / longest_ns, 2)
    right = round(_WIDTH * (start_ns + duration_ns) / longest_ns, 2)
    place = f'x="{left:.2f}" width="{max(right - left, 0.05):.2f}"'
    parts = []
    top = 100.0
    for cause, stall_ns in sorted(causes_ns.items(), key=lambda part: -part[1]):
        height = min(100 * stall_ns / duration_ns, top)
        top -= height
        parts.append(
            f'<rect fill="{CAUSE_COLORS[cause]}" {place} y="{top:.1f}" height="{height:.1f}"/>'
        )
    return (
        f"<g><title>{escape(_tip(steps, causes_ns, duration_ns))}</title>"
        f'<rect class="busy" {place} y="0" height="{top:.1f}"/>{"".join(parts)}</g>'
    )


def _tip(steps: Sequence[Step], causes_ns: Mapping[Cause, int], duration_ns: int) -> str:
    starved = ", ".join(
        f"{cause} {100 * stall_ns / duration_ns:.0f} %"
        for cause, stall_ns in causes_ns.items()
        if stall_ns
    )
    many = "s" * (len(steps) > 1)
    return f"{len(steps)} step{many}, {duration_ns / 1e6:.1f} ms, starved: {starved or 'no'}"


def _legend(report: Report) -> str:
    items = [
        f'<li><i class="c-{escape(name)}"></i>waited for {escape(name)}: {100 * share:.1f} %</li>'
        for name, share in sorted(report.causes.items(), key=lambda part: -part[1])
        if share >= 5e-4
    ]
    rest = 100 * max(0.0, 1 - report.attributed_stall_fraction)
    busy = f'<li><i class="busy-key"></i>not starved: {rest:.1f} %</li>'
    return f'<ul class="legend">{busy}{"".join(items)}</ul>'


def _numbers(report: Report) -> str:
    step, stall = report.step_ms, report.stall_ms
    return (
        f'<p class="numbers">step: median {step.p50:.1f} ms, p99 {step.p99:.1f} ms · starved '
        f"in it: median {stall.p50:.1f} ms, p99 {stall.p99:.1f} ms · host run-ahead "
        f"{report.lead_ms:.1f} ms · clock: {escape(report.compute_stream)}</p>"
    )


def _stages(report: Report) -> str:
    if not report.stages:
        return ""
    edges = {edge.name: edge for edge in report.edges}
    rows = [
        {
            "stage": stage.name,
            "threads": stage.concurrency,
            "busy": f"{100 * stage.busy_fraction:.0f} %",
            **_edge(edges.get(stage.name)),
        }
        for stage in report.stages
    ]
    return f"<details><summary>Stages and queues</summary>{_table(rows)}</details>"


def _edge(edge: EdgeReport | None) -> dict[str, str]:
    if edge is None:
        return {"queue behind it": "", "waited for room": "", "next stage waited": ""}
    return {
        "queue behind it": f"{edge.mean_occupancy:.1f} of {edge.capacity}",
        "waited for room": f"{edge.put_wait_seconds:.1f} s",
        "next stage waited": f"{edge.get_wait_seconds:.1f} s",
    }


def _pairs(values: Mapping[str, str]) -> str:
    items = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(str(value))}</dd>" for name, value in values.items()
    )
    return f"<dl>{items}</dl>"
