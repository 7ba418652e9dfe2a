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

_COLUMNS = ("GB/s", "spread", "reads/s", "p50", "p99", "p99.9", "max", "CPU s/GB")


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
    for (target, access, destination), jobs in _groups(rows).items():
        title = f"{escape(target)}: {access} reads to {destination}, {jobs[0][0]['transfer']}"
        table = Table(box=None, pad_edge=False, title=title, title_justify="left")
        for name in ("backend", "cache", "block", "depth"):
            table.add_column(name, no_wrap=True)
        for name in _COLUMNS:
            table.add_column(name, justify="right", no_wrap=True)
        for runs in jobs:
            table.add_row(*_cells(runs))
        console.print(table)
        console.print()
    _print_notes(console, rows, skipped)


def _groups(
    rows: Sequence[Mapping[str, Any]],
) -> dict[tuple[str, str, str], list[list[Mapping[str, Any]]]]:
    """The jobs of each table, by place, access and destination."""
    found: dict[tuple[str, str, str], list[list[Mapping[str, Any]]]] = {}
    for runs in jobs_of(rows).values():
        key = (str(runs[0]["target"]), str(runs[0]["access"]), str(runs[0]["destination"]))
        found.setdefault(key, []).append(runs)
    return found


def _cells(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    one = runs[0]
    speeds = [float(run["gbps"]) for run in runs]
    middle = statistics.median(speeds)
    batch = f" x{one['batch']}" if one["batch"] > 1 else ""
    return [
        str(one["backend"]),
        str(one["cache"]),
        in_binary(one["block_bytes"]),
        f"{one['queue_depth']}{batch}",
        f"{middle:.3f}{' !' if is_flagged(runs) else ''}",
        f"{100 * (max(speeds) - min(speeds)) / middle:.0f} %" if len(speeds) > 1 else "",
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
