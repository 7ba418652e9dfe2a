"""torch's DataLoader over WebDataset's own reader."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import webdataset
from measure import measure, options
from torch.utils.data import DataLoader
from transform import Transform


class Decode:
    def __init__(self, size: int) -> None:
        self._size = size
        self._transform: Transform | None = None

    def __call__(self, sample: dict[str, Any]) -> torch.Tensor:
        if self._transform is None:
            self._transform = Transform(self._size)
        return torch.from_numpy(np.ascontiguousarray(self._transform(sample["jpg"])))


def batches() -> Iterator[Any]:
    shards = sorted(str(path) for path in (chosen.dataset / "shards").glob("*.tar"))
    dataset = (
        webdataset.WebDataset(shards, shardshuffle=False, resampled=True)
        .shuffle(500)
        .map(Decode(chosen.size))
    )
    yield from DataLoader(dataset, batch_size=chosen.batch, num_workers=chosen.workers)


if __name__ == "__main__":
    chosen = options()
    measure(batches, warmup=chosen.warmup, seconds=chosen.seconds)
