"""One of iopipe's engines: shards to a normalised batch on the device."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from measure import measure
from ready import arguments, normalised, seen

from iopipe import read  # loads torch now, as the peers' imports do


def batches() -> Iterator[Any]:
    pipeline = (
        read(chosen.dataset / "shards", columns=["jpg"])
        .shuffle(seed=0)
        .decode(size=chosen.size, crop="random", flip=True, engine=chosen.engine)
        .batch(chosen.batch)
        .workers(chosen.workers)
        .to(chosen.device)
    )
    with pipeline.run(num_epochs=None) as run:
        yield from seen((normalised(batch["jpg"], chosen.device) for batch in run), chosen.device)


if __name__ == "__main__":
    parser = arguments()
    parser.add_argument("--engine", required=True)
    parser.add_argument("--workers", type=int, default=0)
    chosen = parser.parse_args()
    measure(batches, warmup=chosen.warmup, seconds=chosen.seconds)
