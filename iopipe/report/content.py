"""What the pictures and metrics are made of: a report as plain values, and its steps.

Stands between the meter, or a file that it left, and everything of this room.  Invariant:
nothing behind this module asks whether a report is a value or a file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from iopipe.errors import DataError, NotFoundError
from iopipe.meter.history import History
from iopipe.meter.timeline import Timeline
from iopipe.report.page import write_at_once

SCHEMA = 1


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
    """A `report.json`, and the `steps.json` beside it; no steps where there is none."""
    target = Path(path)
    steps = target.with_name("steps.json")
    content = content_of(_read(target))
    return content, Timeline.from_json(_read(steps)) if steps.exists() else History().timeline()


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise NotFoundError(f"{path} is not there: iopipe profile writes it") from error
    except ValueError as error:
        raise DataError(f"{path} is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} holds {type(content).__name__}, not the JSON of a report")
    return content
