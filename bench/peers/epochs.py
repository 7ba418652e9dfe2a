"""torch's DataLoader, or one like it, over map-style data: epoch after epoch."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader


def epochs(
    dataset: Any, options: argparse.Namespace, loader_class: Any = DataLoader, **more: Any
) -> Iterator[Any]:
    """Whole batches without end; `--workers` processes, which live as long as the loader."""
    loader = loader_class(
        dataset,
        batch_size=options.batch,
        num_workers=options.workers or 0,
        persistent_workers=bool(options.workers),
        drop_last=True,
        **more,
    )
    while True:
        yield from loader
