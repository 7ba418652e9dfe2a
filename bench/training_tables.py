"""Markdown of what `bench.training` and `bench.two_ranks` found, for the README.

Stands beside `bench.readme`.  Invariant: no number that is not in the results.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def training_table(content: Mapping[str, Any]) -> str:
    """Feeds of one network: rates, and what the input costs."""
    rows = [row for row in content["rows"] if "runs" in row]
    how = "compiled" if rows[0]["compiled"] else "eager"
    machine = content["environment"]
    lines = [
        f"| {row['name']} {_settings(row['settings'])}| {row['cores']} | "
        f"{_spread(row['images_per_second'], 1, 0)} | {_overhead(row)} | "
        f"{_spread(row['starved_fraction'], 100, 1)} % | "
        f"{_spread(row['cpu_seconds_per_1000'], 1, 2)} |"
        for row in rows
    ]
    return "\n".join(
        (
            f"{rows[0]['model']}, {how}, on JPEG shards; median (least to greatest) of "
            f"{len(rows[0]['runs'])} rounds in turns:",
            "",
            "| feed | cores | images/s | input overhead | starved | CPU s per 1000 |",
            "|---|---|---|---|---|---|",
            *lines,
            "",
            _where(machine, content["command"]),
        )
    )


def two_ranks_table(content: Mapping[str, Any]) -> str:
    """Part by part, what two GPUs of one host did."""
    rows = {row["part"]: row for row in content["rows"]}
    lines: list[str] = []
    for part, describe in _PARTS.items():
        if part in rows:
            row = rows[part]
            found = [("it failed", row["error"])] if "error" in row else describe(row)
            lines += [f"| {name} | {value} |" for name, value in found]
    return "\n".join(
        (
            "| two GPUs | measured |",
            "|---|---|",
            *lines,
            "",
            _where(content["environment"], content["command"]),
        )
    )


def _speed(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        ("images/s, one", _spread(row["images_per_second"]["1 iopipe"], 1, 0)),
        ("images/s, two", _spread(row["images_per_second"]["2 iopipe"], 1, 0)),
        ("times one", _spread(row["scaling"], 1, 2)),
        ("input overhead of one", _spread(row["input_overhead_of_one"], 100, 2) + " %"),
        ("input overhead of two", _spread(row["input_overhead_of_two"], 100, 2) + " %"),
        ("their CPUs", "disjoint" if row["cpus_are_disjoint"] else "not disjoint"),
    ]


def _straggler(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    zero, one = row["charged_seconds"]
    return [
        ("delay injected into rank 1's loader", f"{row['injected_seconds']:.3f} s"),
        ("charged to rank 1, to rank 0", f"{one:.3f} s, {zero:.3f} s"),
        ("error of the charge", f"{100 * row['relative_error']:.2f} %"),
        ("seen by rank 0 as its own", f"{100 * row['share_seen_by_rank_0']:.2f} %"),
    ]


def _numa(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    if "runs" not in row:
        return [("the GPU's node against another", row["said"])]
    found = []
    for what in ("feed alone", "training"):
        rates = {
            where: [
                sum(rank["images_per_second"] for rank in run["ranks"])
                for run in row["runs"]
                if (run["where"], run["what"]) == (where, what)
            ]
            for where in ("own", "other")
        }
        pairs = zip(rates["own"], rates["other"], strict=True)
        ratios = sorted(own / other for own, other in pairs)
        found.append(
            (
                f"{what}, the GPU's node against another",
                f"{ratios[len(ratios) // 2]:.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}) times",
            )
        )
    return found


def _exact(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    said = "exactly once" if row["audit_is_exact"] else "not exactly once"
    how = "one epoch" if row["part"] == "epoch" else "killed, with one rank, with two"
    return [(f"{how}: {sum(row['delivered']):,} samples", said)]


_PARTS = {
    "speed": _speed,
    "straggler": _straggler,
    "numa": _numa,
    "epoch": _exact,
    "killed": _exact,
}


def _settings(settings: Mapping[str, Any]) -> str:
    shown = ", ".join(f"{name} {value}" for name, value in settings.items())
    return f"({shown}) " if shown else ""


def _overhead(row: Mapping[str, Any]) -> str:
    found = row.get("input_overhead")
    return f"{_spread(found, 100, 2)} %" if found else ""


def _spread(values: Mapping[str, float], factor: float, digits: int) -> str:
    median, least, most = (f"{factor * values[n]:,.{digits}f}" for n in ("median", "min", "max"))
    return f"{median} ({least} to {most})"


def _where(machine: Mapping[str, str], command: str) -> str:
    gpu = machine.get("gpu", "no GPU")
    return (
        f"{machine['date']}, {gpu}, {machine['cores']} cores of an {machine['cpu']}, torch "
        f"{machine['torch']}: `{command}`."
    )
