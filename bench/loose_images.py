"""The dataset of the DataLoader that is compared with: files, libjpeg-turbo, torch's resize.

Stands in torch's worker processes.  Invariant: random-resized-crop and flip as torchvision draws
them, with DCT-domain scaling where the crop allows it and without the interpreter lock, so that
nothing is left to win by another library.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from pathlib import Path

import simplejpeg
import torch
from torch.utils.data import Dataset

_SCALE, _RATIO = (0.08, 1.0), (3 / 4, 4 / 3)


class LooseImages(Dataset[tuple[torch.Tensor, int]]):
    """(uint8 [size, size, 3], label) of each file."""

    def __init__(self, folder: Path, size: int, labels: Mapping[str, int]) -> None:
        """`labels` by the name of the file, without its suffix."""
        self._files = sorted(folder.glob("*.jpg"))
        self._labels = [labels[path.stem] for path in self._files]
        self._size = size

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return _transformed(self._files[index].read_bytes(), self._size), self._labels[index]


def _transformed(content: bytes, size: int) -> torch.Tensor:
    height, width = simplejpeg.decode_jpeg_header(content)[:2]
    top, left, h, w = _box(height, width)
    scale = size / min(h, w)
    pixels = simplejpeg.decode_jpeg(
        content,
        min_height=math.ceil(height * scale),
        min_width=math.ceil(width * scale),
        min_factor=1.5,  # to 7/8 and 6/8 libjpeg scales more slowly than it decodes in full
        fastdct=True,
        fastupsample=True,
    )
    vertical, horizontal = pixels.shape[0] / height, pixels.shape[1] / width
    rows = slice(int(top * vertical), max(int((top + h) * vertical), 1))
    columns = slice(int(left * horizontal), max(int((left + w) * horizontal), 1))
    planes = torch.from_numpy(pixels)[rows, columns].permute(2, 0, 1)[None]
    small = torch.nn.functional.interpolate(
        planes, size=(size, size), mode="bilinear", antialias=True
    )
    if random.random() < 0.5:
        small = small.flip(3)
    return small[0].permute(1, 2, 0).contiguous()


def _box(height: int, width: int) -> tuple[int, int, int, int]:
    for _ in range(10):
        area = height * width * random.uniform(*_SCALE)
        ratio = math.exp(random.uniform(math.log(_RATIO[0]), math.log(_RATIO[1])))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            top, left = random.randint(0, height - h), random.randint(0, width - w)
            return top, left, h, w
    return 0, 0, height, width
