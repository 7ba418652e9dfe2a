"""torch's DataLoader over loose files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import measure, options
from torch.utils.data import DataLoader, Dataset
from transform import Transform


class LooseFiles(Dataset[Any]):
    def __init__(self, folder: Path, size: int) -> None:
        self._files = sorted(folder.glob("*.jpg"))
        self._size = size
        self._transform: Transform | None = None

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> torch.Tensor:
        if self._transform is None:
            self._transform = Transform(self._size)
        content = self._files[index].read_bytes()
        return torch.from_numpy(np.ascontiguousarray(self._transform(content)))


def batches() -> Iterator[Any]:
    loader = DataLoader(
        LooseFiles(chosen.dataset / "loose", chosen.size),
        batch_size=chosen.batch,
        shuffle=True,
        num_workers=chosen.workers,
        persistent_workers=True,
    )
    while True:
        yield from loader


if __name__ == "__main__":
    chosen = options()
    measure(batches, warmup=chosen.warmup, seconds=chosen.seconds)
