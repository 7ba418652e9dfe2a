"""The results as JSON: written once a benchmark is done, read by `compare` and the pages.

Stands between `sweep` and files.  Invariant: schema 1 keeps the meaning of every key that it has.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from iopipe.bench.storage.jobs import Skipped
from iopipe.bench.storage.rows import Row
from iopipe.errors import DataError
from iopipe.report.page import write_at_once

SCHEMA = 1


def content_of(
    rows: Sequence[Row],
    skipped: Sequence[Skipped],
    *,
    environment: dict[str, Any],
    command: str,
) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "command": command,
        "environment": environment,
        "rows": [row.as_json() for row in rows],
        "skipped": [{"what": one.what, "reason": one.reason} for one in skipped],
    }


def write_json(path: Path, content: dict[str, Any]) -> None:
    write_at_once(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """`DataError` where the file is not of this schema."""
    try:
        content = json.loads(path.read_text())
    except (ValueError, UnicodeDecodeError) as error:
        raise DataError(f"no JSON: {error}", shard=str(path)) from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA or "rows" not in content:
        raise DataError(
            f"no results of `iopipe bench storage --json` with schema {SCHEMA}", shard=str(path)
        )
    if any("backend" not in row for row in content["rows"]):
        raise DataError("results of --workload: only those of sweeps are compared", shard=str(path))
    return content
