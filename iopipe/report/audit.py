"""Prints what an audit found, for people and as JSON.

Stands at the end of `iopipe audit`.  Invariant: the verdict is the report's own.
"""

from __future__ import annotations

import json

import numpy as np

from iopipe.audit import AuditReport, EpochAudit
from iopipe.protocols import Int64Array

_SHOWN = 20


def audit_text(report: AuditReport, *, show_all: bool = False) -> str:
    """A line an epoch, then what is wrong, then the verdict."""
    lines = [line for epoch in report.epochs for line in _epoch_lines(epoch, show_all)]
    lines += [f"note: {note}" for note in report.notes]
    if report.num_undone:
        lines.append(f"note: {report.num_undone:,} records were undone by a later start")
    lines += [f"problem: {problem}" for problem in report.problems]
    verdict = "exactly once" if report.is_exact else "not exactly once"
    lines.append(
        f"{verdict}: {report.num_ledgers:,} ledgers of {report.num_starts:,} starts, "
        f"{len(report.epochs):,} epochs"
    )
    return "\n".join(lines)


def audit_json(report: AuditReport) -> str:
    content = {
        "schema": 1,
        "exact": report.is_exact,
        "num_ledgers": report.num_ledgers,
        "num_starts": report.num_starts,
        "num_undone": report.num_undone,
        "problems": list(report.problems),
        "notes": list(report.notes),
        "epochs": [
            {
                "epoch": epoch.epoch,
                "finished": epoch.is_finished,
                "num_delivered": epoch.num_delivered,
                "num_left_out": epoch.num_left_out,
                "num_dropped": epoch.num_dropped,
                "missing": epoch.missing.tolist(),
                "double": epoch.double.tolist(),
            }
            for epoch in report.epochs
        ],
    }
    return json.dumps(content, indent=1)


def _epoch_lines(epoch: EpochAudit, show_all: bool) -> list[str]:
    state = "finished" if epoch.is_finished else "under way"
    lines = [
        f"epoch {epoch.epoch} ({state}): {epoch.num_delivered:,} delivered, "
        f"{epoch.num_left_out:,} left out, {epoch.num_dropped:,} dropped by the tail"
    ]
    for word, ids in (("missing", epoch.missing), ("double", epoch.double)):
        if len(ids):
            lines.append(f"  {word}: {len(ids):,} samples: {_listed(ids, show_all)}")
    return lines


def _listed(ids: Int64Array, show_all: bool) -> str:
    shown = ids if show_all else ids[:_SHOWN]
    rest = len(ids) - len(shown)
    words = ", ".join(map(str, np.asarray(shown).tolist()))
    return f"{words} and {rest:,} more" if rest else words
