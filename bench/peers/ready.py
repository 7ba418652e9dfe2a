"""What both sides of the decode benchmark end in: a normalised 16-bit batch, seen to be there.

Invariant: a batch counts when the device is done with it; two may be under way.
"""

from __future__ import annotations

import argparse
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sized
from pathlib import Path

import torch

from iopipe.bench.measure import measured, show

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
_UNDER_WAY = 2


def arguments() -> argparse.ArgumentParser:
    """DATASET is the folder that `iopipe.bench.decode_engines` prepared."""
    parser = argparse.ArgumentParser()
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--warmup", type=int, default=10, help="batches before the clock starts")
    return parser


def normalised(pixels: torch.Tensor, device: str) -> torch.Tensor:
    """uint8 [n, h, w, 3] to bfloat16 [n, 3, h, w], channels last."""
    mean = torch.tensor(MEAN, device=device).mul_(255).view(1, 3, 1, 1)
    std = torch.tensor(STD, device=device).mul_(255).view(1, 3, 1, 1)
    return ((pixels.permute(0, 3, 1, 2).float() - mean) / std).bfloat16()


def seen(batches: Iterable[torch.Tensor], device: str) -> Iterator[torch.Tensor]:
    """The batches, held back until the device is done with the one before the last."""
    under_way: deque[torch.cuda.Event] = deque()
    for batch in batches:
        if device != "cpu":
            event = torch.cuda.Event()
            event.record()
            under_way.append(event)
            if len(under_way) > _UNDER_WAY:
                under_way.popleft().synchronize()
        yield batch


def measure(open_batches: Callable[[], Iterator[Sized]], chosen: argparse.Namespace) -> None:
    """One row by the clock of all loaders; a batch is 16-bit pixels [n, size, size, 3]."""
    row_bytes = 2 * 3 * chosen.size * chosen.size

    def counted() -> Generator[tuple[int, int], None, None]:
        for batch in open_batches():
            yield len(batch), row_bytes * len(batch)

    told = {"decode": "", "fidelity": "exact", "threads": None, "workers": 0, **vars(chosen)}
    show(measured(counted, argparse.Namespace(**told)))
