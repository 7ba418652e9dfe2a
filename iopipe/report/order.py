"""Prints what each shuffle of a dataset is worth and costs, for people and as JSON.

Stands at the end of `iopipe order`.  Invariant: the rows are those that `compare_shuffles`
measured.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from iopipe.errors import PipelineError
from iopipe.order import EpochSequence
from iopipe.order.quality import OrderQuality, ReadCost, order_quality, read_cost
from iopipe.pipeline import Pipeline

UNITS = {"4 KiB": 4 << 10, "128 KiB": 128 << 10, "1 MiB": 1 << 20}
"""A page, the read-ahead of a disk, and about what a request to an object store costs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShuffleRow:
    """One way to go through the dataset."""

    name: str
    settings: str
    quality: OrderQuality
    costs: tuple[ReadCost, ...]
    """One for each of `UNITS`."""


def compare_shuffles(
    pipeline: Pipeline, *, batch_size: int = 256, memory_bytes: int = 1 << 30
) -> list[ShuffleRow]:
    """'none', 'block' and 'full' over the source of a pipeline that is not shuffled yet."""
    if batch_size < 1:
        raise PipelineError(f"batch size is {batch_size}; it must be at least 1")
    if len(pipeline.source) < 2:
        raise PipelineError(f"{len(pipeline.source)} samples have no order to speak of")
    sequences: dict[str, EpochSequence] = {
        "none": pipeline.shuffle(mode="none").order.sequence,
        "block": pipeline.shuffle(mode="block").order.sequence,
        "full": pipeline.shuffle(mode="full").order.sequence,
    }
    return [
        ShuffleRow(
            name=name,
            settings=sequence.describe(),
            quality=order_quality(sequence, batch_size=batch_size),
            costs=tuple(
                read_cost(pipeline.source, sequence, unit_bytes=unit, memory_bytes=memory_bytes)
                for unit in UNITS.values()
            ),
        )
        for name, sequence in sequences.items()
    ]


def print_shuffles(rows: Sequence[ShuffleRow], *, batch_size: int, memory_bytes: int) -> None:
    table = Table(title="what each shuffle is worth, and what it reads", box=SIMPLE_HEAD)
    for title in ("shuffle", "distance", "correlation", f"mix of {batch_size}"):
        table.add_column(title, justify="left" if title == "shuffle" else "right")
    for unit in UNITS:
        table.add_column(unit, justify="right")
    for row in rows:
        table.add_row(
            row.name,
            f"{row.quality.neighbour_distance:.2f}",
            f"{row.quality.position_correlation:+.2f}",
            f"{row.quality.independent_samples:.0f}",
            *(f"{cost.amplification:.2f}x {cost.reads_per_1000_samples:.0f}" for cost in row.costs),
        )
    console = Console(highlight=False)
    console.print(table)
    console.print(
        "distance: between samples that follow each other, 1 as by chance\n"
        "correlation of position and sample: 0 as by chance, +1 as stored\n"
        f"mix: a batch of {batch_size} is as good as so many samples drawn at random\n"
        "4 KiB ...: bytes read over bytes used, and reads per 1000 samples, where storage reads "
        f"such units and the reader keeps {memory_bytes >> 20} MiB"
    )
    for row in rows:
        console.print(f"{row.name}: {row.settings}")


def shuffles_json(rows: Sequence[ShuffleRow]) -> str:
    return json.dumps({"schema": 1, "rows": [asdict(row) for row in rows]}, indent=1)
