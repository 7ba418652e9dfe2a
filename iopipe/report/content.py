"""What the pictures and metrics are made of: a report as plain values, and its steps.

Stands between the meter, or a file that it left, and everything of this room.  Invariant:
nothing behind this module asks whether a report is a value or a file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from iopipe.errors import DataError, NotFoundError
from iopipe.meter.history import History
from iopipe.meter.timeline import Timeline
from iopipe.report.page import write_at_once

SCHEMA = 1
_MOST = 1e300
"""Beyond it a sum is no number any more."""


class Reported(Protocol):
    """A meter's report."""

    def to_json(self) -> dict[str, Any]: ...


def content_of(report: Reported | Mapping[str, Any]) -> Mapping[str, Any]:
    """Plain values of schema 1; `DataError` for another schema."""
    content = report if isinstance(report, Mapping) else report.to_json()
    if content.get("schema") != SCHEMA:
        raise DataError(
            f"a report of schema {content.get('schema')!r}: this version draws {SCHEMA}"
        )
    return content


def timeline_of(history: History | Timeline) -> Timeline:
    return history.timeline() if isinstance(history, History) else history


def write_report(
    report: Reported | Mapping[str, Any],
    history: History | Timeline,
    folder: str | os.PathLike[str],
) -> None:
    """`report.json` and beside it `steps.json`, from which `iopipe report` draws again."""
    place = Path(folder)
    write_at_once(place / "report.json", json.dumps(content_of(report), indent=1) + "\n")
    write_at_once(place / "steps.json", json.dumps(timeline_of(history).to_json()) + "\n")


def read_report(path: str | os.PathLike[str]) -> tuple[Mapping[str, Any], Timeline]:
    """A `report.json`, and the `steps.json` beside it; no steps where there is none.

    `DataError` where the file holds something else than what is drawn from it."""
    target = Path(path)
    steps = target.with_name("steps.json")
    content = content_of(_read(target))
    try:
        _check(content)
    except ValueError as error:
        raise DataError(f"{target} is no report: {error}") from error
    return content, Timeline.from_json(_read(steps)) if steps.exists() else History().timeline()


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refused)
    except FileNotFoundError as error:
        raise NotFoundError(f"{path} is not there: iopipe profile writes it") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} holds {type(content).__name__}, not the JSON of a report")
    return content


def _refused(word: str) -> None:
    raise ValueError(f"{word} is no number of JSON's")


_NUMBERS = (
    "num_steps",
    "wall_seconds",
    "samples_per_second",
    "attributed_stall_fraction",
    "recoverable_stall_fraction",
)
_RATES = ("samples_per_second", "low", "high")


def _check(content: Mapping[str, Any]) -> None:
    """`ValueError` where something is of another kind than it is drawn as; keys may be missing."""
    _check_numbers(content, _NUMBERS)
    causes = _mapping("causes", content.get("causes", {}))
    _check_numbers(causes, causes)
    _mapping("environment", content.get("environment", {}))
    for change in _mappings("what_if", content):
        if missing := {"change", *_RATES} - change.keys():
            raise ValueError(f"what_if lacks {', '.join(sorted(missing))}")
        _check_numbers(change, (*_RATES, "bound"))
    for stage in _mappings("stages", content):
        _check_numbers(stage, ("busy", "blocked"))


def _mappings(name: str, content: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    found = content.get(name, [])
    if not isinstance(found, list):
        raise ValueError(f"{name} is {type(found).__name__}, not a list")
    return [_mapping(name, one) for one in found]


def _mapping(name: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} holds {type(value).__name__}, not names with values")
    return value


def _check_numbers(values: Mapping[str, Any], keys: Iterable[str]) -> None:
    for key in keys:
        value = values.get(key, 0)
        if not isinstance(value, int | float) or not abs(value) < _MOST:
            raise ValueError(f"{key} is {value!r}, which is no number that could be drawn")
