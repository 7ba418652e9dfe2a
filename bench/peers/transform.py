"""The transform of the peers, in the fastest form known to us for their loaders.

JPEG by libjpeg-turbo, in `scaled` with DCT-domain scaling where the crop allows it and with its
faster transforms; area-averaging resize by OpenCV; random-resized-crop and flip drawn by numpy.
"""

from __future__ import annotations

import math
import threading
from typing import Any

import cv2
import numpy as np
import simplejpeg


class _Generators(threading.local):
    """A generator for each thread; made when it is asked for first, so after a fork."""

    def __init__(self) -> None:
        self.numbers = np.random.default_rng()


class Transform:
    """JPEG bytes to uint8 pixels [size, size, 3]; for any thread, and for other processes."""

    def __init__(self, size: int, fidelity: str) -> None:
        self._size = size
        self._fidelity = fidelity
        self._generators: _Generators | None = None
        cv2.setNumThreads(0)

    def __reduce__(self) -> tuple[Any, ...]:
        return Transform, (self._size, self._fidelity)

    def __call__(self, content: bytes) -> Any:
        self._generators = self._generators or _Generators()
        numbers = self._generators.numbers
        height, width = simplejpeg.decode_jpeg_header(content)[:2]
        top, left, h, w = _box(numbers, height, width)
        scale = self._size / min(h, w)
        pixels = simplejpeg.decode_jpeg(content, **self._scaling(height * scale, width * scale))
        vertical, horizontal = pixels.shape[0] / height, pixels.shape[1] / width
        rows = slice(int(top * vertical), max(int((top + h) * vertical), 1))
        columns = slice(int(left * horizontal), max(int((left + w) * horizontal), 1))
        small = cv2.resize(
            pixels[rows, columns], (self._size, self._size), interpolation=cv2.INTER_AREA
        )
        return small[:, ::-1] if numbers.random() < 0.5 else small

    def _scaling(self, height: float, width: float) -> dict[str, Any]:
        if self._fidelity == "exact":
            return {}
        return {
            "min_height": math.ceil(height),
            "min_width": math.ceil(width),
            "min_factor": 1.5,  # to 7/8 and 6/8 libjpeg scales more slowly than in full
            "fastdct": True,
            "fastupsample": True,
        }


def _box(numbers: np.random.Generator, height: int, width: int) -> tuple[int, int, int, int]:
    for _ in range(10):
        area = height * width * numbers.uniform(0.08, 1)
        ratio = math.exp(numbers.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            top = int(numbers.integers(0, height - h + 1))
            return top, int(numbers.integers(0, width - w + 1)), h, w
    return 0, 0, height, width
