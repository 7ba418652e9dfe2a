"""Which library decodes and resizes fastest: the measurement behind `loaders/decode`.

`python -m iopipe.bench.decode --images DIR --json FILE`, with opencv-python-headless
installed.  Everything is in memory; rounds are interleaved; each row gives CPU microseconds
an image on one thread, and images a second on two, which shows who lets go of the
interpreter lock.
"""

from __future__ import annotations

import argparse
import io
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import torch
from PIL import Image

import iopipe
from iopipe.bench.harness import write_results
from iopipe.loaders.decode import crops
from iopipe.loaders.decode.resize import crop_and_resize
from iopipe.protocols import Samples
from iopipe.stages import ImageOptions

SIZE = 224
Pixels = np.ndarray[Any, np.dtype[np.uint8]]


def _opencv() -> Any:
    try:
        import cv2
    except ImportError as error:
        raise iopipe.MissingDependency(
            "this benchmark compares with OpenCV: pip install 'iopipe[peers]'"
        ) from error
    cv2.setNumThreads(0)
    return cv2


def _decoders() -> dict[str, Callable[[bytes], object]]:
    cv2 = _opencv()
    return {
        "simplejpeg": lambda raw: simplejpeg.decode_jpeg(raw, "RGB"),
        "simplejpeg, fast DCT and upsampling": lambda raw: simplejpeg.decode_jpeg(
            raw, "RGB", fastdct=True, fastupsample=True
        ),
        "opencv": lambda raw: cv2.imdecode(np.frombuffer(raw, np.uint8), cv2.IMREAD_COLOR),
        "pillow": lambda raw: np.asarray(Image.open(io.BytesIO(raw)).convert("RGB")),
    }


def _resizers() -> dict[str, Callable[[Pixels], object]]:
    cv2 = _opencv()
    return {
        "torch 8-bit antialias, contiguous copy": _by_iopipe,
        "torch 8-bit antialias, strided": _by_torch,
        "opencv area": lambda part: cv2.resize(part, (SIZE, SIZE), interpolation=cv2.INTER_AREA),
        "opencv linear (no antialias)": lambda part: cv2.resize(part, (SIZE, SIZE)),
        "pillow bilinear": lambda part: np.asarray(
            Image.fromarray(part).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
        ),
    }


def _by_iopipe(part: Pixels) -> Pixels:
    target = np.empty((SIZE, SIZE, 3), np.uint8)
    crop_and_resize(part, (0, 0, *part.shape[:2]), target, mirrored=False)
    return target


def _by_torch(part: Pixels) -> object:
    planes = torch.from_numpy(part).permute(2, 0, 1)[None]
    return torch.nn.functional.interpolate(planes, (SIZE, SIZE), mode="bilinear", antialias=True)


def measure(
    contestants: dict[str, Callable[[Any], object]], inputs: Sequence[Any], num_rounds: int
) -> list[dict[str, object]]:
    """A row a contestant, from interleaved rounds after one for warming up."""
    cpu: dict[str, list[float]] = {name: [] for name in contestants}
    wall: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(num_rounds + 1):
        for name, function in contestants.items():
            start = time.process_time()
            for item in inputs:
                function(item)
            one_thread = (time.process_time() - start) / len(inputs) * 1e6
            with ThreadPoolExecutor(2) as pool:
                begin = time.perf_counter()
                list(pool.map(function, inputs))
                two_threads = len(inputs) / (time.perf_counter() - begin)
            if number:
                cpu[name].append(one_thread)
                wall[name].append(two_threads)
    return [
        {
            "name": name,
            "cpu_microseconds": _spread(cpu[name]),
            "images_per_second_on_two_threads": _spread(wall[name]),
        }
        for name in contestants
    ]


def _spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def _parts(images: Sequence[Pixels]) -> list[Pixels]:
    """The random crops that a training would resize, as views of the decoded images."""
    samples = Samples(ids=np.arange(len(images)), keys=[""] * len(images), columns={})
    sizes = np.array([image.shape[:2] for image in images])
    boxes = crops.boxes(samples, sizes, ImageOptions(size=(SIZE, SIZE), crop="random"))
    return [
        image[top : top + height, left : left + width]
        for image, (top, left, height, width) in zip(images, boxes.tolist(), strict=True)
    ]


def main() -> None:
    """Measure decoders, then resizers, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--count", type=int, default=120)
    options = parser.parse_args()
    files = [path for path in sorted(options.images.iterdir()) if "jp" in path.suffix.lower()]
    contents = [path.read_bytes() for path in files[: options.count]]
    decoded = measure(_decoders(), contents, options.rounds)
    parts = _parts([simplejpeg.decode_jpeg(raw, "RGB") for raw in contents])
    resized = measure(_resizers(), parts, options.rounds)
    write_results(
        options.json,
        command=f"python -m iopipe.bench.decode --images DIR --rounds {options.rounds} "
        f"--count {options.count} --json FILE",
        cache={"state": "compressed images in memory"},
        rows=[{"step": "decode", **row} for row in decoded]
        + [{"step": "resize", **row} for row in resized],
    )
    for row in (*decoded, *resized):
        print(row)


if __name__ == "__main__":
    main()
