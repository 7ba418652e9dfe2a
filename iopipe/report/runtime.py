"""Where running jobs leave their latest report, and how `iopipe top` finds it.

Stands between `live` and `top`.  Invariant: only the user who runs the job can read or write
there, and a reader finds a whole report or none.
"""

from __future__ import annotations

import json
import os
import stat
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from iopipe.errors import PipelineError
from iopipe.report.live import Content
from iopipe.report.page import write_at_once

_MAX_BYTES = 1 << 20
"""A report takes some kilobytes; more is none of ours."""


def runtime_folder() -> Path:
    """The user's own; made where it is missing.

    $XDG_RUNTIME_DIR/iopipe, or iopipe-UID among the temporary files (XDG Base Directory
    Specification).  `PipelineError` where others own it or may write there.
    """
    base = os.environ.get("XDG_RUNTIME_DIR")
    folder = Path(base, "iopipe") if base else Path(tempfile.gettempdir(), f"iopipe-{os.getuid()}")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise PipelineError(f"{folder} cannot be made: {error.strerror}") from error
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise PipelineError(
            f"{folder} is not a folder that only you can write to: remove it, or set "
            "XDG_RUNTIME_DIR to one that is"
        )
    return folder


class RuntimeFile:
    """Leaves each report in a file of the runtime folder; it goes when the job closes it."""

    def __init__(self, folder: Path | None = None) -> None:
        folder = runtime_folder() if folder is None else folder
        self.path = folder / f"{os.getpid()}.json"

    def show(self, content: Content) -> None:
        job = {
            "schema": 1,
            "pid": os.getpid(),
            "command": " ".join(sys.argv),
            "written": time.time(),
            "report": dict(content),
        }
        write_at_once(self.path, json.dumps(job))

    def close(self) -> None:
        self.path.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A running job, as it last described itself."""

    pid: int
    command: str
    age_seconds: float
    """Since it did; large where it is busy otherwise."""
    report: Mapping[str, Any]


def running_jobs(folder: Path | None = None) -> list[Job]:
    """Those whose process still lives, by number; what is no report is passed over."""
    folder = runtime_folder() if folder is None else folder
    found = (_job(path) for path in sorted(folder.glob("*.json")) if _lives(path.stem))
    return sorted((job for job in found if job is not None), key=lambda job: job.pid)


def _lives(name: str) -> bool:
    if not name.isascii() or not name.isdigit():
        return False
    try:
        os.kill(int(name), 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return False  # ours could be signalled: the number belongs to another by now
    return True


def _job(path: Path) -> Job | None:
    try:
        if path.stat().st_size > _MAX_BYTES:
            return None
        content = json.loads(path.read_text(encoding="utf-8"))
        report = content["report"]
        if content["schema"] != 1 or not isinstance(report, dict):
            return None
        age = max(0.0, time.time() - float(content["written"]))
        return Job(
            pid=int(path.stem), command=str(content["command"]), age_seconds=age, report=report
        )
    except FileNotFoundError:
        return None  # it ended just now
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
