"""iopipe over the same shards; `--workers` is the number of decode threads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from measure import measure, options

from iopipe import read  # loads torch now, as the peers' imports do


def batches() -> Iterator[Any]:
    pipeline = (
        read(chosen.dataset / "shards", columns=["jpg"])
        .shuffle(seed=0)
        .decode(
            size=chosen.size,
            crop="random",
            flip=True,
            fidelity=chosen.fidelity,
            concurrency=chosen.workers,
        )
        .batch(chosen.batch)
    )
    with pipeline.run(num_epochs=None) as run:
        for batch in run:
            yield batch["jpg"]


if __name__ == "__main__":
    chosen = options()
    measure(batches, warmup=chosen.warmup, seconds=chosen.seconds)
