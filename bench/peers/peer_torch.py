"""torch's DataLoader over loose files; --workers processes."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from epochs import epochs
from peer import loose_files, run
from torch.utils.data import Dataset
from transform import Transform


class LooseFiles(Dataset[Any]):
    def __init__(self, files: list[Path], transform: Transform) -> None:
        self._files = files
        self._transform = transform

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> torch.Tensor:
        content = self._files[index].read_bytes()
        return torch.from_numpy(np.ascontiguousarray(self._transform(content)))


def batches(options: argparse.Namespace) -> Iterator[Any]:
    transform = Transform(options.size, options.fidelity)
    files = LooseFiles(loose_files(options.dataset), transform)
    return epochs(files, options, shuffle=options.shuffle != "none")


if __name__ == "__main__":
    run(batches)
