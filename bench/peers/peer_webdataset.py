"""torch's DataLoader over WebDataset's own reader; --workers processes."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import webdataset
from peer import run
from torch.utils.data import DataLoader
from transform import Transform

_SHUFFLED_SAMPLES = 500


class Decode:
    def __init__(self, transform: Transform) -> None:
        self._transform = transform

    def __call__(self, sample: dict[str, Any]) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(self._transform(sample["jpg"])))


def batches(options: argparse.Namespace) -> Iterator[Any]:
    shards = sorted(str(path) for path in (options.dataset / "shards").glob("*.tar"))
    dataset = webdataset.WebDataset(shards, shardshuffle=False, resampled=True)
    if options.shuffle != "none":
        dataset = dataset.shuffle(_SHUFFLED_SAMPLES)
    dataset = dataset.map(Decode(Transform(options.size, options.fidelity)))
    yield from DataLoader(dataset, batch_size=options.batch, num_workers=options.workers or 0)


if __name__ == "__main__":
    run(batches)
