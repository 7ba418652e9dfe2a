"""Two files of results, job by job: better, worse, or no difference shown.

Stands beside `results`.  Invariant: a difference is called one only where it is larger than what
the repeated runs of one file differ among themselves, and no run of one reaches those of the other.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from iopipe.bench.storage.jobs import in_binary
from iopipe.bench.storage.table import KEY, jobs_of

Verdict: TypeAlias = Literal["better", "worse", "no difference shown"]

LEAST_FLOOR = 0.02
"""Below it nothing is called a difference, however well the runs agree."""
_LEAST_RUNS = 3
"""Three above three others come by chance once in twenty times."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One job in both files."""

    job: Mapping[str, Any]
    first_gbps: float
    second_gbps: float
    floor: float
    """The noise: a ratio within 1 -+ this says nothing."""
    verdict: Verdict
    reason: str = ""
    """Why no difference could be shown, where there are too few runs to tell."""

    @property
    def ratio(self) -> float:
        return self.second_gbps / self.first_gbps


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparisons:
    rows: list[Comparison]
    differences: list[str]
    """Of the surroundings: two machines, two kernels."""
    only_first: int
    only_second: int


def compare(first: Mapping[str, Any], second: Mapping[str, Any]) -> Comparisons:
    """`second` against `first`; jobs are paired by what they are, but for the place's name
    where each file has one place."""
    ours, theirs = (_paired(content["rows"]) for content in (first, second))
    common = [key for key in ours if key in theirs]
    usual = statistics.median(
        [spread(_speeds(runs)) for jobs in (ours, theirs) for runs in jobs.values()] or [0.0]
    )
    return Comparisons(
        rows=[_compared(ours[key], theirs[key], usual) for key in common],
        differences=_differences(first.get("environment", {}), second.get("environment", {})),
        only_first=len(ours) - len(common),
        only_second=len(theirs) - len(common),
    )


def spread(speeds: Sequence[float]) -> float:
    """Greatest less least, over the median."""
    return (max(speeds) - min(speeds)) / statistics.median(speeds)


def judge(first: Sequence[float], second: Sequence[float], *, floor: float) -> tuple[Verdict, str]:
    """Of the speeds of `second` against those of `first`."""
    if min(len(first), len(second)) < _LEAST_RUNS:
        fewest = min(len(first), len(second))
        return "no difference shown", f"{fewest} runs do not show the noise; give --repeats 3"
    ratio = statistics.median(second) / statistics.median(first)
    if ratio > 1 + floor and min(second) > max(first):
        return "better", ""
    if ratio < 1 / (1 + floor) and max(second) < min(first):
        return "worse", ""
    return "no difference shown", ""


def _compared(
    first: Sequence[Mapping[str, Any]], second: Sequence[Mapping[str, Any]], usual: float
) -> Comparison:
    ours, theirs = _speeds(first), _speeds(second)
    # Three runs may agree by luck: what jobs differ by as a rule counts as well.
    floor = max(LEAST_FLOOR, usual / 2, spread(ours) / 2, spread(theirs) / 2)
    verdict, reason = judge(ours, theirs, floor=floor)
    return Comparison(
        job=first[0],
        first_gbps=statistics.median(ours),
        second_gbps=statistics.median(theirs),
        floor=floor,
        verdict=verdict,
        reason=reason,
    )


def _speeds(runs: Sequence[Mapping[str, Any]]) -> list[float]:
    return [float(run["gbps"]) for run in runs]


def _paired(
    rows: Sequence[Mapping[str, Any]],
) -> dict[tuple[Any, ...], list[Mapping[str, Any]]]:
    is_one = len({row["target"] for row in rows}) == 1
    found = jobs_of(rows)
    return {(None, *key[1:]): runs for key, runs in found.items()} if is_one else found


def _differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    names = [name for name in {**first, **second} if name != "date"]
    return [
        f"{name}: {first.get(name)} and {second.get(name)}"
        for name in names
        if first.get(name) != second.get(name)
    ]


def print_comparison(console: Console, found: Comparisons) -> None:
    table = Table(box=None, pad_edge=False)
    for name in ("backend", "access", "block", "depth", "cache", "to"):
        table.add_column(name)
    for name in ("A GB/s", "B GB/s", "B/A", "noise"):
        table.add_column(name, justify="right")
    table.add_column("B is")
    for row in found.rows:
        job = row.job
        table.add_row(
            *(str(job[name]) for name in ("backend", "access")),
            *(in_binary(job["block_bytes"]), str(job["queue_depth"])),
            *(str(job["cache"]), str(job["destination"])),
            *(f"{row.first_gbps:.3f}", f"{row.second_gbps:.3f}", f"{row.ratio:.3f}"),
            *(f"{100 * row.floor:.1f} %", row.verdict),
        )
    console.print(table)
    for reason in dict.fromkeys(row.reason for row in found.rows if row.reason):
        console.print(reason, soft_wrap=True)
    for one in found.differences:
        console.print(f"not the same: {escape(one)}", soft_wrap=True)
    if found.only_first or found.only_second:
        console.print(
            f"only in A: {found.only_first} jobs, only in B: {found.only_second} "
            f"(jobs are paired by {', '.join(KEY[1:])})",
            soft_wrap=True,
        )
