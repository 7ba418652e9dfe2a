"""Small batches of random images for the tests of the image kernel."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from iopipe.kernels.image_batch import ImageOptions, ImageParameters, PackedImages
from iopipe.kernels.tuning import Config

MEAN, STD = (0.48, 0.46, 0.41, 0.5), (0.23, 0.22, 0.25, 0.3)

SIDES = [(7, 13), (5, 5), (1, 1), (4, 20), (2, 3)]
CROPS = [(1, 2, 6, 11), (0, 0, 5, 5), (0, 0, 1, 1), (1, 0, 3, 20), (0, 1, 2, 2)]
"""Whole and in part, larger and smaller than the output, narrower than the taps."""


def config(rows: int = 4, columns: int = 8, *, ahead: int = 1, ptx: int = 1) -> Config:
    blocks = {"AHEAD": ahead, "COLUMNS": columns, "PTX": ptx, "ROWS": rows}
    return Config(blocks=blocks, num_warps=1)


def packed(
    sides: Sequence[tuple[int, int]],
    *,
    device: str,
    channels: int = 3,
    shift: int = 1,
    seed: int = 0,
) -> PackedImages:
    """Random images behind each other, the first one `shift` bytes behind an aligned address."""
    sizes = [height * width * channels for height, width in sides]
    generator = torch.Generator().manual_seed(seed)
    data = torch.randint(0, 256, (shift + sum(sizes),), dtype=torch.uint8, generator=generator)
    offsets = [sum(sizes[:number]) for number in range(len(sizes))]
    heights, widths = zip(*sides, strict=True) if sides else ((), ())
    return PackedImages(
        data=data.to(device)[shift:],
        offsets=torch.tensor(offsets, dtype=torch.int64, device=device),
        heights=torch.tensor(heights, dtype=torch.int32, device=device),
        widths=torch.tensor(widths, dtype=torch.int32, device=device),
        channels=channels,
    )


def boxes(rows: Sequence[tuple[int, int, int, int]], *, device: str) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.int32, device=device).view(-1, 4)


def factors(number: int, low: float, high: float, *, device: str, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (low + (high - low) * torch.rand(number, generator=generator)).to(device)


def sample(device: str, *, channels: int = 3) -> tuple[PackedImages, ImageParameters]:
    """All of SIDES and CROPS, every other one flipped."""
    flips = torch.arange(len(SIDES), device=device) % 2 == 0
    images = packed(SIDES, device=device, channels=channels)
    return images, ImageParameters(crops=boxes(CROPS, device=device), flips=flips)


def target(
    dtype: torch.dtype = torch.float32, *, channels: int = 3, height: int = 4, width: int = 6
) -> ImageOptions:
    if dtype == torch.uint8:
        return ImageOptions(height=height, width=width, dtype=dtype)
    mean, std = MEAN[:channels], STD[:channels]
    return ImageOptions(height=height, width=width, dtype=dtype, mean=mean, std=std)
