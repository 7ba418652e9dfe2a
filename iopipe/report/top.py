"""`iopipe top`: what the jobs of this user wait for, live in the terminal.

Stands at the end of `runtime`.  Invariant: it only reads; a job does not notice it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live as RichLive
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from iopipe.errors import PipelineError
from iopipe.report.runtime import Job, running_jobs
from iopipe.report.style import CAUSE_COLORS
from iopipe.report.terminal import printable

_WIDTH = 40
_STALE_SECONDS = 10.0
_MOST_SECONDS = 86_400.0
_NOTHING = "no job tells of itself: give Live a RuntimeFile (iopipe.report.runtime)"


def watch(*, every_seconds: float = 1.0, once: bool = False) -> None:
    """Until Ctrl-C; `once`: print what is there and return.

    `PipelineError` for a pause of no or more than a day's length."""
    if not 0 < every_seconds <= _MOST_SECONDS:
        raise PipelineError(
            f"every is {every_seconds:g}: give more than 0 seconds, and a day at most"
        )
    console = Console()
    if once:
        console.print(drawn(running_jobs()))
        return
    with RichLive(drawn(running_jobs()), console=console, screen=True) as screen:
        while True:
            time.sleep(every_seconds)
            screen.update(drawn(running_jobs()))


def drawn(jobs: Sequence[Job]) -> RenderableType:
    """A panel a job: verdict, numbers, bars of idle time and of stages."""
    return Group(*map(_panel, jobs)) if jobs else Text(_NOTHING)


def _panel(job: Job) -> Panel:
    report = job.report
    stale = f", last heard of {job.age_seconds:.0f} s ago" if _is_stale(job) else ""
    parts: list[RenderableType] = [
        Text(printable(str(report.get("verdict", ""))), style="bold"),
        Text(_numbers(report), style="dim"),
        _bars(_causes(report)),
    ]
    if stages := _stages(report):
        parts.append(_bars(stages))
    title = Text(printable(f"{job.pid}  {job.command}{stale}"))
    return Panel(Group(*parts), title=title, title_align="left")


def _is_stale(job: Job) -> bool:
    return job.age_seconds > _STALE_SECONDS


def _numbers(report: Mapping[str, Any]) -> str:
    return (
        f"{_number(report.get('num_steps')):,.0f} steps, "
        f"{_number(report.get('samples_per_second')):,.0f} samples/s, "
        f"run-ahead {_number(report.get('lead_ms')):.1f} ms"
    )


def _causes(report: Mapping[str, Any]) -> list[tuple[str, float, str]]:
    causes = report.get("causes")
    shares = {str(k): _number(v) for k, v in causes.items()} if isinstance(causes, dict) else {}
    parts = sorted(shares.items(), key=lambda part: -part[1])
    return [(name, v, CAUSE_COLORS.get(name, "#6b6b6b")) for name, v in parts if v >= 5e-4]


def _stages(report: Mapping[str, Any]) -> list[tuple[str, float, str]]:
    stages = report.get("stages")
    known = [s for s in stages if isinstance(s, dict)] if isinstance(stages, list | tuple) else []
    return [
        (f"{s.get('name', '')} x {s.get('threads', 1)}", _number(s.get("busy")), "#5091ff")
        for s in known
    ]


def _number(value: Any) -> float:
    """0 for what is no number that could be drawn: the file is any program's of this user."""
    return float(value) if isinstance(value, int | float) and abs(value) < 1e300 else 0.0


def _bars(rows: Sequence[tuple[str, float, str]]) -> Table:
    table = Table.grid(padding=(0, 2))
    for name, share, color in rows:
        full = round(_WIDTH * min(max(share, 0.0), 1.0))
        bar = Text("━" * full, style=color) + Text("━" * (_WIDTH - full), style="bright_black")
        table.add_row(Text(printable(name)), bar, Text(f"{100 * share:5.1f} %"))
    return table
