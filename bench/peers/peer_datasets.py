"""Hugging Face datasets, memory-mapped Arrow, by torch's DataLoader; --workers processes."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from epochs import epochs
from peer import loose_files, run
from transform import Transform


def prepare(dataset: Path) -> None:
    def rows() -> Iterator[dict[str, bytes]]:
        for path in loose_files(dataset):
            yield {"jpg": path.read_bytes()}

    datasets.disable_progress_bars()
    features = datasets.Features({"jpg": datasets.Value("binary")})
    made = datasets.Dataset.from_generator(
        rows, features=features, cache_dir=str(dataset / "datasets_cache")
    )
    made.save_to_disk(str(dataset / "datasets"))


def batches(options: argparse.Namespace) -> Iterator[Any]:
    transform = Transform(options.size, options.fidelity)

    def decoded(rows: dict[str, list[bytes]]) -> dict[str, list[torch.Tensor]]:
        return {
            "jpg": [torch.from_numpy(np.ascontiguousarray(transform(raw))) for raw in rows["jpg"]]
        }

    stored = datasets.load_from_disk(str(options.dataset / "datasets")).with_transform(decoded)
    for batch in epochs(stored, options, shuffle=options.shuffle != "none"):
        yield batch["jpg"]


if __name__ == "__main__":
    run(batches, prepare)
