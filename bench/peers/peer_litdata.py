"""LitData over its optimised chunks; --workers processes."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import litdata
import numpy as np
import torch
from epochs import epochs
from peer import loose_files, run
from transform import Transform


class Chunks(litdata.StreamingDataset):  # type: ignore[misc]
    def __init__(self, folder: Path, transform: Transform, *, shuffle: bool) -> None:
        super().__init__(str(folder), shuffle=shuffle)
        self._decoded = transform

    def __getitem__(self, index: Any) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(self._decoded(super().__getitem__(index))))


def content_of(path: str) -> bytes:
    return Path(path).read_bytes()


def prepare(dataset: Path) -> None:
    litdata.optimize(
        content_of,
        [str(path) for path in loose_files(dataset)],
        str(dataset / "litdata"),
        chunk_bytes="64MB",
        num_workers=1,
        verbose=False,
    )


def batches(options: argparse.Namespace) -> Iterator[Any]:
    transform = Transform(options.size, options.fidelity)
    chunks = Chunks(options.dataset / "litdata", transform, shuffle=options.shuffle != "none")
    return epochs(chunks, options, litdata.StreamingDataLoader)


if __name__ == "__main__":
    run(batches, prepare)
