"""The names and units under which a report is exported; one list for all exporters.

Stands between a report and Prometheus, TensorBoard, Lightning.  Invariant: names follow
Prometheus' conventions (prometheus.io/docs/practices/naming): prefix, unit in the plural,
`_total` for what only grows, `_ratio` for shares; a key that the report lacks gives nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One quantity, with a value for each set of labels."""

    name: str
    kind: Literal["counter", "gauge"]
    help: str
    samples: tuple[tuple[Mapping[str, str], float], ...]


_PLAIN: tuple[tuple[str, str, Literal["counter", "gauge"], float, str], ...] = (
    ("num_steps", "iopipe_steps_total", "counter", 1, "Training steps measured."),
    ("num_samples", "iopipe_samples_total", "counter", 1, "Samples consumed."),
    (
        "wall_seconds", "iopipe_measured_seconds_total", "counter", 1,
        "Time measured, pauses between iterations left out.",
    ),
    (
        "attributed_stall_seconds", "iopipe_stall_seconds_total", "counter", 1,
        "Time without work because the input was not there.",
    ),
    (
        "attributed_stall_fraction", "iopipe_attributed_stall_ratio", "gauge", 1,
        "Share of the measured time without work because the input was not there.",
    ),
    (
        "recoverable_stall_fraction", "iopipe_recoverable_stall_ratio", "gauge", 1,
        "Share of the measured time that perfect input would have saved.",
    ),
    (
        "samples_per_second", "iopipe_samples_per_second", "gauge", 1,
        "Samples consumed over the time measured.",
    ),
    (
        "lead_ms", "iopipe_lead_seconds", "gauge", 1e-3,
        "Median host run-ahead: work the stream still had when a batch was asked for.",
    ),
)  # fmt: skip
"""Key of the report, name, kind, factor, help."""


def metrics_of(content: Mapping[str, Any]) -> tuple[Metric, ...]:
    """All that a report holds, in a fixed order."""
    return tuple(_metrics(content))


def scalars_of(content: Mapping[str, Any]) -> dict[str, float]:
    """The same as flat names, for loggers that know no labels: `iopipe/idle_ratio/decode`."""
    scalars = {}
    for metric in metrics_of(content):
        for labels, value in metric.samples:
            name = metric.name.removeprefix("iopipe_").removesuffix("_total")
            scalars["/".join(("iopipe", name, *labels.values()))] = value
    return scalars


def _metrics(content: Mapping[str, Any]) -> Iterator[Metric]:
    for key, name, kind, factor, purpose in _PLAIN:
        if key in content:
            value = factor * float(content[key])
            yield Metric(name=name, kind=kind, help=purpose, samples=(({}, value),))
    causes = content.get("causes") or {}
    if causes:
        yield Metric(
            name="iopipe_idle_ratio",
            kind="gauge",
            help="Share of the measured time without work, by what it waited for.",
            samples=tuple(({"cause": str(c)}, float(share)) for c, share in causes.items()),
        )
    storage = content.get("storage") or {}
    if storage:
        share = float(storage["bytes_per_second"]) / float(storage["ceiling_bytes_per_second"])
        yield Metric(
            name="iopipe_storage_ceiling_ratio",
            kind="gauge",
            help="What was read, as a share of what the storage was measured to give.",
            samples=(({}, share),),
        )
    stages = content.get("stages") or ()
    for state in ("busy", "blocked", "idle"):
        samples = tuple(
            # Two stages may have one name, and a scrape with twins is refused whole.
            ({"stage": str(stage.get("name", n)), "position": str(n)}, float(stage[state]))
            for n, stage in enumerate(stages)
            if state in stage
        )
        if samples:
            yield Metric(
                name=f"iopipe_stage_{state}_ratio",
                kind="gauge",
                help=f"Share of a stage's threads' time: {_STATES[state]}.",
                samples=samples,
            )


_STATES = {
    "busy": "at work",
    "blocked": "waiting for room behind it",
    "idle": "waiting for work",
}
