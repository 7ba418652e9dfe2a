"""Which library decodes and resizes fastest: the measurement behind `loaders/decode`.

`python -m iopipe.bench.decode --images DIR --json FILE`, with opencv-python-headless
installed.  Everything is in memory; rounds are interleaved, and made again where others used
the machine.  Each row gives microseconds an image on one thread, and images a second on two,
which shows who lets go of the interpreter lock.
"""

from __future__ import annotations

import argparse
import io
import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import torch
from PIL import Image, ImageOps

import iopipe
from iopipe.bench.harness import ForeignLoad, write_results
from iopipe.bench.photographs import jpegs_in
from iopipe.loaders.decode import crops, make_decoder
from iopipe.loaders.decode.resize import crop_and_resize
from iopipe.protocols import Samples
from iopipe.stages import Fidelity, ImageOptions

SIZE = 224
QUIET_CORES = 0.1
MAX_TRIES = 5
CHUNK = 16
OPTIONS = ImageOptions(size=(SIZE, SIZE), crop="random", flip=True)
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


@dataclass(frozen=True, slots=True)
class _Chunk:
    """What a decode thread gets at once.  The others are spared the drawing of crops."""

    samples: Samples
    boxes: list[list[int]]
    mirrored: list[bool]


def _transforms() -> dict[str, Callable[[_Chunk], object]]:
    """Bytes to rows of a batch: decode, random-resized-crop, flip."""
    cv2 = _opencv()

    def by_pillow(raw: memoryview, box: list[int], mirrored: bool) -> Pixels:
        top, left, height, width = box
        image = Image.open(io.BytesIO(raw)).convert("RGB")
        edges = (left, top, left + width, top + height)
        small = image.resize((SIZE, SIZE), Image.Resampling.BILINEAR, box=edges)
        return np.asarray(ImageOps.mirror(small) if mirrored else small)

    def by_opencv(raw: memoryview, box: list[int], mirrored: bool) -> Any:
        top, left, height, width = box
        pixels = simplejpeg.decode_jpeg(raw, "RGB")
        small = cv2.resize(pixels[top : top + height, left : left + width], (SIZE, SIZE))
        return cv2.flip(small, 1) if mirrored else small

    return {
        "iopipe exact": _stage("exact"),
        "iopipe scaled": _stage("scaled"),
        "pillow": _each(by_pillow),
        "simplejpeg, opencv linear (no antialias)": _each(by_opencv),
    }


def _stage(fidelity: Fidelity) -> Callable[[_Chunk], object]:
    decode = make_decoder(replace(OPTIONS, fidelity=fidelity))
    return lambda chunk: decode(chunk.samples)


def _each(function: Callable[[memoryview, list[int], bool], Any]) -> Callable[[_Chunk], object]:
    def run(chunk: _Chunk) -> object:
        rows = zip(chunk.samples.columns["jpg"], chunk.boxes, chunk.mirrored, strict=True)
        return np.stack([function(*row) for row in rows])

    return run


def _by_iopipe(part: Pixels) -> Pixels:
    target = np.empty((SIZE, SIZE, 3), np.uint8)
    crop_and_resize(part, (0, 0, *part.shape[:2]), target, mirrored=False)
    return target


def _by_torch(part: Pixels) -> object:
    planes = torch.from_numpy(part).permute(2, 0, 1)[None]
    return torch.nn.functional.interpolate(planes, (SIZE, SIZE), mode="bilinear", antialias=True)


def measure(
    contestants: Mapping[str, Callable[[Any], object]],
    inputs: Sequence[Any],
    num_rounds: int,
    *,
    num_images: int | None = None,
) -> list[dict[str, object]]:
    """A row a contestant, from interleaved rounds after one for warming up."""
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in contestants}
    for number in range(num_rounds + 1):
        for name, function in contestants.items():
            numbers = _quiet_round(function, inputs, num_images or len(inputs))
            if number:
                rounds[name].append(numbers)
    return [
        {
            "name": name,
            "num_rounds": num_rounds,
            **{key: _spread([numbers[key] for numbers in rounds[name]]) for key in rounds[name][0]},
        }
        for name in contestants
    ]


def _quiet_round(
    function: Callable[[Any], object], inputs: Sequence[Any], num_images: int
) -> dict[str, float]:
    """The least disturbed of a few tries: chosen by the foreign load, never by the speed."""
    tries: list[dict[str, float]] = []
    while len(tries) < MAX_TRIES and (not tries or tries[-1]["foreign_cores"] > QUIET_CORES):
        foreign = ForeignLoad()
        tries.append({**_round(function, inputs, num_images), "foreign_cores": foreign.cores()})
    return min(tries, key=lambda numbers: numbers["foreign_cores"])


def _round(
    function: Callable[[Any], object], inputs: Sequence[Any], num_images: int
) -> dict[str, float]:
    start, begin = time.process_time(), time.perf_counter()
    for item in inputs:
        function(item)
    cpu, wall = time.process_time() - start, time.perf_counter() - begin
    on_two = _on_two_threads(function, inputs)
    return {
        "cpu_microseconds": cpu / num_images * 1e6,
        "wall_microseconds": wall / num_images * 1e6,
        "images_per_second_on_two_threads": num_images / on_two,
    }


def _on_two_threads(function: Callable[[Any], object], inputs: Sequence[Any]) -> float:
    """Seconds for all inputs.  Both threads are warm, as those of a loader are: their buffers
    exist; and they keep no results, as a loader's do not."""
    start = threading.Barrier(3)

    def work(part: Sequence[Any]) -> None:
        function(part[0])
        start.wait()
        for item in part:
            function(item)

    with ThreadPoolExecutor(2) as pool:
        halves = [pool.submit(work, inputs[number::2]) for number in range(2)]
        start.wait()
        begin = time.perf_counter()
        for half in halves:
            half.result()
        return time.perf_counter() - begin


def _spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def _parts(images: Sequence[Pixels]) -> list[Pixels]:
    """The random crops that a training would resize, as views of the decoded images."""
    samples = Samples(ids=np.arange(len(images)), keys=[""] * len(images), columns={})
    sizes = np.array([image.shape[:2] for image in images])
    boxes = crops.boxes(samples, sizes, OPTIONS)
    return [
        image[top : top + height, left : left + width]
        for image, (top, left, height, width) in zip(images, boxes.tolist(), strict=True)
    ]


def _chunks(contents: Sequence[bytes]) -> list[_Chunk]:
    chunks = []
    for first in range(0, len(contents), CHUNK):
        part = [memoryview(raw) for raw in contents[first : first + CHUNK]]
        ids = np.arange(first, first + len(part))
        samples = Samples(ids=ids, keys=[""] * len(part), columns={"jpg": part})
        sizes = np.array([simplejpeg.decode_jpeg_header(raw)[:2] for raw in part])
        boxes = crops.boxes(samples, sizes, OPTIONS).tolist()
        chunks.append(_Chunk(samples, boxes, crops.flips(samples, OPTIONS).tolist()))
    return chunks


def main() -> None:
    """Measure decoders, resizers and whole transforms, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--count", type=int, default=120)
    options = parser.parse_args()
    contents = [path.read_bytes() for path in jpegs_in(options.images)[: options.count]]
    decoded = measure(_decoders(), contents, options.rounds)
    parts = _parts([simplejpeg.decode_jpeg(raw, "RGB") for raw in contents])
    resized = measure(_resizers(), parts, options.rounds)
    whole = measure(_transforms(), _chunks(contents), options.rounds, num_images=len(contents))
    write_results(
        options.json,
        command=f"python -m iopipe.bench.decode --images DIR --rounds {options.rounds} "
        f"--count {options.count} --json FILE",
        cache={"state": "compressed images in memory"},
        rows=[{"step": "decode", **row} for row in decoded]
        + [{"step": "resize", **row} for row in resized]
        + [{"step": "decode, crop, resize, flip", **row} for row in whole],
    )
    for row in (*decoded, *resized, *whole):
        print(row)


if __name__ == "__main__":
    main()
