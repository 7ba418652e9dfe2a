"""`iopipe profile -- COMMAND`: runs it, waits, and says what its training step waited for.

Stands behind the command line.  Invariant: the command runs as it would without us: its
input, output, signals and exit code are its own.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from iopipe.errors import PipelineError
from iopipe.meter.ranks import charge
from iopipe.meter.timeline import Timeline
from iopipe.profile.session import merged
from iopipe.profile.startup import environment_for
from iopipe.report import write_html, write_trace
from iopipe.report.content import write_report


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What came of a profiled command."""

    exit_code: int
    """The command's own; negative for the signal that ended it."""
    report: dict[str, Any]
    """`Report.to_json()` of the lowest rank, with the straggler where there are several."""
    text: str
    """For people."""


def profile(command: Sequence[str], *, out: Path, steps: int | None = None) -> Profile:
    """Run `command`, measure its DataLoader loops, and write what was found into `out`.

    `report.json`, its steps beside it, `report.html`, and `trace.json` for Perfetto.

    `steps`: measure so many batches only; the command goes on to its end without.
    `PipelineError` where nothing was measured or the command cannot be started.
    """
    if not command:
        raise PipelineError("no command was given: iopipe profile -- python train.py")
    if steps is not None and steps < 2:
        raise PipelineError(f"steps is {steps}: give at least 2")
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="iopipe-profile-") as name:
        folder = Path(name)
        exit_code = _run(command, environment_for(folder, steps=steps, base=os.environ))
        measured = [json.loads(path.read_text()) for path in folder.glob("measured-*.json")]
    if not measured:
        raise PipelineError(
            f"nothing was measured: {command[0]} ended with exit code {exit_code} and no loop "
            "over torch's DataLoader; check that it does not start python with -I, -E or -S, "
            "and that iopipe is installed there"
        )
    of_ranks = _one_a_rank(measured)
    report, text = _summary(of_ranks)
    steps_of_first = Timeline.from_json(of_ranks[0]["steps"])
    write_report(report, steps_of_first, out)
    write_html(report, steps_of_first, out / "report.html")
    write_trace(report, steps_of_first, out / "trace.json")
    return Profile(exit_code=exit_code, report=report, text=text)


def _run(command: Sequence[str], environment: dict[str, str]) -> int:
    try:
        process = subprocess.Popen(command, env=environment)
    except OSError as error:
        raise PipelineError(f"{command[0]!r} cannot be started: {error.strerror}") from error
    with _signals_left_to(process):
        return process.wait()


@contextmanager
def _signals_left_to(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Ctrl-C reaches the command by itself, since it is in our group; SIGTERM is passed on."""

    def pass_on(number: int, _: object) -> None:
        process.send_signal(number)

    before = {
        signal.SIGINT: signal.signal(signal.SIGINT, signal.SIG_IGN),
        signal.SIGTERM: signal.signal(signal.SIGTERM, pass_on),
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _summary(of_ranks: Sequence[dict[str, Any]]) -> tuple[dict[str, Any], str]:
    """`of_ranks`: one a rank, the lowest first."""
    report = dict(of_ranks[0]["report"])
    text = str(of_ranks[0]["text"])
    stalls_ns = np.array(merged(of_ranks), np.int64)
    if len(of_ranks) > 1 and stalls_ns.size:
        report["straggler"] = str(charge(stalls_ns, [one["rank"] for one in of_ranks]))
        text += f"\n  {report['straggler']}"
    return report, text


def _one_a_rank(measured: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """What each rank measured, the lowest first.  Of several processes that are the same rank,
    or of none, the one whose loop took longest: they do not wait for each other."""
    ordered = sorted(measured, key=lambda one: float(one["report"]["wall_seconds"]))
    return sorted({one["rank"]: one for one in ordered}.values(), key=lambda one: int(one["rank"]))
