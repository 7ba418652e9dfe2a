"""One of iopipe's engines: shards to a normalised batch on the device."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from ready import MEAN, STD, arguments, measure, normalised, seen

from iopipe import ImageOptions, read  # loads torch now, as the peers' imports do


def batches() -> Iterator[Any]:
    size = (chosen.size, chosen.size)
    images = ImageOptions(size=size, crop="random", flip=True, engine=chosen.engine)
    normalises = chosen.engine != "cpu" and chosen.device != "cpu"
    if normalises:
        images = replace(images, dtype="bfloat16", mean=MEAN, std=STD)
    pipeline = (
        read(chosen.dataset / "shards", columns=["jpg"])
        .shuffle(seed=0)
        .decode(images)
        .batch(chosen.batch)
        .workers(chosen.workers)
        .to(chosen.device)
    )
    with pipeline.run(num_epochs=None) as run:
        ready = (
            batch["jpg"] if normalises else normalised(batch["jpg"], chosen.device) for batch in run
        )
        yield from seen(ready, chosen.device)


if __name__ == "__main__":
    parser = arguments()
    parser.add_argument("--engine", required=True)
    parser.add_argument("--workers", type=int, default=0)
    chosen = parser.parse_args()
    measure(batches, chosen)
