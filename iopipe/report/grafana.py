"""A Grafana dashboard for the metrics that the Prometheus endpoint serves.

Stands beside `prometheus`.  Invariant: every panel asks for metrics that `metrics` exports.
Source: Grafana's documentation of the dashboard JSON model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from iopipe.report.style import CAUSE_COLORS

_DATA_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_SCHEMA_VERSION = 39
_COLUMNS = 24
_HEIGHT = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class _Panel:
    title: str
    queries: tuple[tuple[str, str], ...]
    """(expression, legend)."""
    unit: str = "percentunit"
    width: int = 12
    is_stacked: bool = False


_JOB = '{instance=~"$instance"}'
_PANELS = (
    _Panel(
        title="Starved: share of the time, over the last five minutes",
        queries=(
            (
                f"rate(iopipe_stall_seconds_total{_JOB}[5m])"
                f" / rate(iopipe_measured_seconds_total{_JOB}[5m])",
                "{{instance}}",
            ),
        ),
    ),
    _Panel(
        title="Idle by cause, since the start",
        queries=((f"iopipe_idle_ratio{_JOB}", "{{cause}} {{instance}}"),),
        is_stacked=True,
    ),
    _Panel(
        title="Samples per second",
        queries=((f"rate(iopipe_samples_total{_JOB}[1m])", "{{instance}}"),),
        unit="short",
    ),
    _Panel(
        title="Steps per second",
        queries=((f"rate(iopipe_steps_total{_JOB}[1m])", "{{instance}}"),),
        unit="short",
    ),
    _Panel(
        title="Stages at work",
        queries=((f"iopipe_stage_busy_ratio{_JOB}", "{{stage}} {{instance}}"),),
    ),
    _Panel(
        title="Host run-ahead",
        queries=((f"iopipe_lead_seconds{_JOB}", "{{instance}}"),),
        unit="s",
    ),
    _Panel(
        title="Stall since the start: attributed, recoverable",
        queries=(
            (f"iopipe_attributed_stall_ratio{_JOB}", "attributed {{instance}}"),
            (f"iopipe_recoverable_stall_ratio{_JOB}", "recoverable {{instance}}"),
        ),
        width=_COLUMNS,
    ),
)


def dashboard() -> dict[str, Any]:
    """What Grafana imports: Dashboards, New, Import."""
    panels: list[dict[str, Any]] = []
    left = top = 0
    for number, panel in enumerate(_PANELS, start=1):
        panels.append(_drawn(panel, number, left, top))
        left += panel.width
        if left >= _COLUMNS:
            left, top = 0, top + _HEIGHT
    return {
        "title": "iopipe",
        "uid": "iopipe",
        "schemaVersion": _SCHEMA_VERSION,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": _variables()},
        "panels": panels,
    }


def _variables() -> list[dict[str, Any]]:
    return [
        {"name": "datasource", "type": "datasource", "query": "prometheus"},
        {
            "name": "instance",
            "type": "query",
            "datasource": _DATA_SOURCE,
            "query": "label_values(iopipe_steps_total, instance)",
            "includeAll": True,
            "multi": True,
            "refresh": 2,
        },
    ]


def _drawn(panel: _Panel, number: int, left: int, top: int) -> dict[str, Any]:
    stacking = {"mode": "normal" if panel.is_stacked else "none"}
    custom = {"fillOpacity": 60 if panel.is_stacked else 8, "stacking": stacking}
    return {
        "id": number,
        "type": "timeseries",
        "title": panel.title,
        "datasource": _DATA_SOURCE,
        "gridPos": {"x": left, "y": top, "w": panel.width, "h": _HEIGHT},
        "targets": [
            {"refId": chr(ord("A") + n), "expr": query, "legendFormat": legend}
            for n, (query, legend) in enumerate(panel.queries)
        ],
        "fieldConfig": {
            "defaults": {"unit": panel.unit, "min": 0, "custom": custom},
            "overrides": _colors() if panel.is_stacked else [],
        },
    }


def _colors() -> list[dict[str, Any]]:
    """The causes have the colours of the page."""
    return [
        {
            "matcher": {"id": "byRegexp", "options": f"^{cause} .*"},
            "properties": [{"id": "color", "value": {"mode": "fixed", "fixedColor": color}}],
        }
        for cause, color in CAUSE_COLORS.items()
    ]
