"""MosaicML Streaming over its MDS shards, by torch's DataLoader; --workers processes.

The package imports torchvision for its examples, and torchvision's wheel fits torch's CUDA
build only: two empty modules stand in for what is imported and not used.
"""

from __future__ import annotations

import argparse
import importlib.machinery
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from epochs import epochs
from peer import loose_files, run
from transform import Transform


def _stand_in(name: str, **content: Any) -> None:
    module = types.ModuleType(name)
    module.__path__ = []
    module.__spec__ = importlib.machinery.ModuleSpec(name, None)
    module.__dict__.update(content)
    sys.modules[name] = module


_stand_in("torchvision")
_stand_in("torchvision.datasets", VisionDataset=object, CIFAR10=object)
_stand_in("torchvision.transforms")
_stand_in("torchvision.transforms.functional", to_tensor=None)

from streaming import MDSWriter, StreamingDataset  # noqa: E402


class Shards(StreamingDataset):  # type: ignore[misc]
    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__(
            local=str(options.dataset / "mds"),
            shuffle=options.shuffle != "none",
            batch_size=options.batch,
        )
        self._transform = Transform(options.size, options.fidelity)

    def __getitem__(self, index: Any) -> torch.Tensor:
        content = super().__getitem__(index)["jpg"]
        return torch.from_numpy(np.ascontiguousarray(self._transform(content)))


def prepare(dataset: Path) -> None:
    with MDSWriter(out=str(dataset / "mds"), columns={"jpg": "bytes"}) as writer:
        for path in loose_files(dataset):
            writer.write({"jpg": path.read_bytes()})


def batches(options: argparse.Namespace) -> Iterator[Any]:
    return epochs(Shards(options), options)


if __name__ == "__main__":
    run(batches, prepare)
