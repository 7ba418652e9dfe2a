"""Findings for people and as JSON.

Stands at the end of `iopipe doctor`.  Invariant: what was read from the machine reaches the
terminal as text, never as markup.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from iopipe.doctor.finding import Finding, Verdict

_COLOURS: dict[Verdict, str] = {"ok": "green", "warn": "yellow", "fail": "red", "unknown": "dim"}
_WORST_FIRST: tuple[Verdict, ...] = ("fail", "warn", "ok", "unknown")


def findings_json(findings: Sequence[Finding]) -> str:
    content = {"schema": 1, "findings": [finding.as_json() for finding in findings]}
    return json.dumps(content, indent=1)


def print_findings(findings: Sequence[Finding], *, console: Console | None = None) -> None:
    """A table, worst first; what could not be looked at by its reason; then why what is not well
    matters, and how to change it."""
    console = console or Console(highlight=False)
    known = [finding for finding in findings if finding.verdict != "unknown"]
    order = sorted(known, key=lambda finding: _WORST_FIRST.index(finding.verdict))
    console.print(_table(order))
    for reason, names in _by_reason(findings).items():
        console.print(escape(f"unknown: {', '.join(names)}: {reason}"), soft_wrap=True)
    for finding in order:
        if finding.verdict != "ok":
            _print_advice(console, finding)
    counts = Counter(finding.verdict for finding in findings)
    console.print(", ".join(f"{counts[verdict]} {verdict}" for verdict in _WORST_FIRST))


def _table(findings: Sequence[Finding]) -> Table:
    table = Table("")
    table.add_column("what", no_wrap=True)
    table.add_column("observed")
    table.add_column("ok is")
    for finding in findings:
        words = (finding.name, finding.observed, finding.threshold)
        table.add_row(_mark(finding), *(escape(word) for word in words))
    return table


def _by_reason(findings: Sequence[Finding]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for finding in findings:
        if finding.verdict == "unknown":
            found.setdefault(finding.observed, []).append(finding.name)
    return found


def has_failed(findings: Sequence[Finding]) -> bool:
    return any(finding.verdict == "fail" for finding in findings)


def _print_advice(console: Console, finding: Finding) -> None:
    console.print(f"{_mark(finding)} {escape(f'{finding.name}: {finding.why}')}", soft_wrap=True)
    if finding.command:
        console.print(escape(f"     {finding.who}: {finding.command}"), soft_wrap=True)


def _mark(finding: Finding) -> str:
    return f"[{_COLOURS[finding.verdict]}]{finding.verdict}[/]"
