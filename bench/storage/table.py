"""The results on a terminal: a line a job, medians of its runs, and what was left out and why.

Stands beside `page`.  Invariant: a number that Little's law contradicts carries a mark.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from iopipe.bench.storage.jobs import Skipped, in_binary
from iopipe.report.charts import in_time

KEY = (
    *("target", "backend", "access", "block_bytes", "queue_depth", "direct"),
    *("destination", "cache", "batch"),
)
"""What names a job among the rows of a file."""

_COLUMNS = ("GB/s", "(range)", "IOPS", "p50", "p99", "p99.9", "max", "CPU s/GB")


def jobs_of(rows: Iterable[Mapping[str, Any]]) -> dict[tuple[Any, ...], list[Mapping[str, Any]]]:
    """The runs of each job, in the order they were made."""
    found: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault(tuple(row.get(name) for name in KEY), []).append(row)
    return found


def median_of(runs: Sequence[Mapping[str, Any]], name: str) -> float:
    return statistics.median(float(run[name]) for run in runs)


def is_flagged(runs: Sequence[Mapping[str, Any]]) -> bool:
    return any(run["obeys_littles_law"] is False for run in runs)


def print_table(
    console: Console, rows: Sequence[Mapping[str, Any]], skipped: Sequence[Skipped]
) -> None:
    found = jobs_of(rows)
    for target in dict.fromkeys(row["target"] for row in rows):
        table = Table(title=escape(str(target)), title_justify="left")
        for name in ("backend", "access", "block", "depth", "cache", "to"):
            table.add_column(name)
        for name in _COLUMNS:
            table.add_column(name, justify="right")
        for runs in (runs for key, runs in found.items() if key[0] == target):
            table.add_row(*_cells(runs))
        console.print(table)
    _print_notes(console, rows, skipped)


def _cells(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    one = runs[0]
    speeds = [float(run["gbps"]) for run in runs]
    mark = " !" if is_flagged(runs) else ""
    batch = f" x{one['batch']}" if one["batch"] > 1 else ""
    return [
        str(one["backend"]),
        str(one["access"]),
        in_binary(one["block_bytes"]),
        f"{one['queue_depth']}{batch}",
        str(one["cache"]),
        f"{one['destination']} ({one['transfer']})",
        f"{statistics.median(speeds):.3f}{mark}",
        f"{min(speeds):.3f}-{max(speeds):.3f}" if len(speeds) > 1 else "",
        f"{median_of(runs, 'iops'):,.0f}",
        *(
            in_time(median_of(runs, name) / 1e3)
            for name in ("p50_us", "p99_us", "p99_9_us", "max_us")
        ),
        f"{median_of(runs, 'cpu_seconds_per_gb'):.3f}",
    ]


def _print_notes(
    console: Console, rows: Sequence[Mapping[str, Any]], skipped: Sequence[Skipped]
) -> None:
    for path in dict.fromkeys(f"{row['backend']}: {row['active_path']}" for row in rows):
        console.print(f"path of {escape(path)}", soft_wrap=True)
    if any(row["obeys_littles_law"] is False for row in rows):
        console.print(
            "! the queue was not full all the time: throughput is more than 10 % from bytes in "
            "flight / latency (Little's law), so what limits is not the storage alone",
            soft_wrap=True,
        )
    if any(row["verified_bytes"] for row in rows):
        total = sum(row["verified_bytes"] for row in rows)
        console.print(
            f"verified: all {in_binary(total)} are as they should be; comparing takes time, so the "
            "speeds are lower than without --verify",
            soft_wrap=True,
        )
    for one in skipped:
        console.print(f"skipped {escape(one.what)}: {escape(one.reason)}", soft_wrap=True)
