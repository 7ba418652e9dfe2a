"""The transform of the peers, in the fastest form known to us for their loaders.

JPEG by libjpeg-turbo with DCT-domain scaling where the crop allows it and with its faster
transforms, as `iopipe scaled` has them; area-averaging resize by OpenCV, random-resized-crop
and flip drawn by numpy.
"""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
import simplejpeg


class Transform:
    """JPEG bytes to uint8 pixels [size, size, 3]; one a worker."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._generator = np.random.default_rng()
        cv2.setNumThreads(0)

    def __call__(self, content: bytes) -> Any:
        height, width = simplejpeg.decode_jpeg_header(content)[:2]
        top, left, h, w = self._box(height, width)
        scale = self._size / min(h, w)
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
        small = cv2.resize(
            pixels[rows, columns], (self._size, self._size), interpolation=cv2.INTER_AREA
        )
        return small[:, ::-1] if self._generator.random() < 0.5 else small

    def _box(self, height: int, width: int) -> tuple[int, int, int, int]:
        for _ in range(10):
            area = height * width * self._generator.uniform(0.08, 1)
            ratio = math.exp(self._generator.uniform(math.log(3 / 4), math.log(4 / 3)))
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                top = int(self._generator.integers(0, height - h + 1))
                return top, int(self._generator.integers(0, width - w + 1)), h, w
        return 0, 0, height, width
