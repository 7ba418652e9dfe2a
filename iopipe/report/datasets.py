"""Prints what `inspect` and `verify` found, for people and as JSON.

Stands at the end of those two commands.  Invariant: bytes of a dataset reach the terminal
only as printable characters.
"""

from __future__ import annotations

import json
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table

from iopipe.errors import DataError
from iopipe.readers.checkup import Inspection, Verification, verify_dataset
from iopipe.report.terminal import printable

_PREVIEW_CHARACTERS = 60
_BAR_WIDTH = 30
_UNITS = ("bytes", "kB", "MB", "GB", "TB", "PB")


def verify_with_progress(paths: list[str]) -> Verification:
    """`verify_dataset` with a bar on standard error: bytes done, rate, time left."""
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("verify", total=None)
        return verify_dataset(
            paths,
            on_start=lambda num_bytes: progress.update(task, total=num_bytes),
            on_shard=lambda num_bytes: progress.update(task, advance=num_bytes),
        )


def print_verification(found: Verification) -> None:
    console = Console(highlight=False, soft_wrap=True)
    for damage in found.damage:
        console.print(escape(f"damaged: {printable(str(damage))}"))
    verdict = "intact" if found.is_intact else f"{len(found.damage)} damaged"
    console.print(
        f"{verdict}: {found.num_samples:,} samples in {found.num_shards:,} shards, "
        f"{in_units(found.num_bytes)} compared"
    )


def verification_json(found: Verification) -> str:
    content = {
        "schema": 1,
        "intact": found.is_intact,
        "num_shards": found.num_shards,
        "num_samples": found.num_samples,
        "num_bytes": found.num_bytes,
        "damage": [_damage(damage) for damage in found.damage],
    }
    return json.dumps(content, indent=1)


def print_inspection(found: Inspection) -> None:
    console = Console(highlight=False, soft_wrap=True)
    console.print(
        f"{found.format}: {found.num_samples:,} samples in {len(found.shard_bytes):,} shards, "
        f"{in_units(found.num_bytes)}"
    )
    table = Table("column", "type", *(printable(s["__key__"]) for s in found.samples))
    for name, kind in found.columns.items():
        previews = (escape(preview(sample[name])) for sample in found.samples)
        table.add_row(escape(printable(name)), escape(kind), *previews)
    console.print(table)
    most = max(count for _, _, count in found.histogram())
    for low, high, count in found.histogram():
        bar = "█" * max(bool(count), round(_BAR_WIDTH * count / most))
        console.print(f"{in_units(low):>10} to {in_units(high):>10}  {bar} {count:,}")
    for damage in found.damage:
        console.print(escape(f"damaged: {printable(str(damage))}"))


def inspection_json(found: Inspection) -> str:
    content = {
        "schema": 1,
        "format": found.format,
        "columns": found.columns,
        "num_samples": found.num_samples,
        "num_shards": len(found.shard_bytes),
        "num_bytes": found.num_bytes,
        "shard_bytes": {
            "min": min(found.shard_bytes),
            "max": max(found.shard_bytes),
            "histogram": found.histogram(),
        },
        "damage": [_damage(damage) for damage in found.damage],
        "samples": [
            {name: preview(value) for name, value in sample.items()} for sample in found.samples
        ],
    }
    return json.dumps(content, indent=1)


def preview(value: Any) -> str:
    """A value in a few printable characters."""
    if isinstance(value, bytes):
        is_text = len(value) <= _PREVIEW_CHARACTERS and value.isascii()
        if is_text and value.decode("ascii").isprintable():
            return value.decode("ascii")
        return f"{in_units(len(value))}: {value[:8].hex(' ')}"
    if hasattr(value, "shape"):
        return f"{value.dtype} {list(value.shape)}"
    text = printable(str(value))
    return text if len(text) <= _PREVIEW_CHARACTERS else f"{text[:_PREVIEW_CHARACTERS]}..."


def in_units(num_bytes: int) -> str:
    """Decimal units, four digits: 1.214 MB."""
    size, unit = float(num_bytes), 0
    while size >= 1000 and unit < len(_UNITS) - 1:
        size, unit = size / 1000, unit + 1
    return f"{size:.4g} {_UNITS[unit]}"


def _damage(damage: DataError) -> dict[str, Any]:
    return {
        "shard": damage.shard,
        "key": damage.key,
        "offset": damage.offset,
        "reason": damage.reason,
    }
