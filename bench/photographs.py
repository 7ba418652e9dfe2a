"""A data set of real photographs, made offline: crops of those that scikit-image ships.

Stands before the demo.  Invariant: no crop occurs twice, so none that is held out was
trained on; the same settings make the same files.  Held-out crops do overlap with others:
most of the photographs are too small for two regions of 256 pixels.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image

import iopipe

PHOTOGRAPHS = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "cell.png",
    "chelsea.png",
    "clock_motion.png",
    "coffee.png",
    "coins.png",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "moon.png",
    "motorcycle_left.png",
    "retina.jpg",
    "rocket.jpg",
)
_SETTINGS_NAME = "crops.json"
_THREADS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class CropSettings:
    """Which crops are cut."""

    num_train: int = 3000
    num_held_out: int = 600
    min_pixels: int = 256
    max_pixels: int = 640
    """Of each side; a photograph that is smaller gives crops up to its own size."""
    quality: int = 92
    seed: int = 0


@dataclass(frozen=True, slots=True)
class CropSet:
    """Where the crops are; the class of a crop is the number of its photograph."""

    loose: Path
    """`<class>/<number>.jpg`, the crops to train on."""
    train: Path
    """The same crops as WebDataset shards."""
    held_out: Path
    """Shards of the others."""
    names: tuple[str, ...]


def jpegs_in(folder: Path) -> list[Path]:
    """The JPEGs of a folder, by name; NotFoundError where there are none."""
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in (".jpg", ".jpeg"))
    if not found:
        raise iopipe.NotFoundError(2, "no .jpg or .jpeg files in this folder", str(folder))
    return found


def make_crops(
    folder: Path, settings: CropSettings, *, on_crop: Callable[[], None] | None = None
) -> CropSet:
    """Cut the crops into `folder`, or take those that an earlier call with the same settings
    completed there; `on_crop` is called after each."""
    crops = CropSet(
        folder / "loose", folder / "train", folder / "held_out", tuple(map(_stem, PHOTOGRAPHS))
    )
    marker = folder / _SETTINGS_NAME
    wanted = json.dumps(asdict(settings))
    if marker.exists() and marker.read_text() == wanted:
        return crops
    marker.unlink(missing_ok=True)  # first: what is cut half must not look complete
    for part in (crops.loose, crops.train, crops.held_out):
        shutil.rmtree(part, ignore_errors=True)
    photographs = _photographs()
    boxes = _boxes(photographs, settings)
    for number in range(len(photographs)):
        (crops.loose / str(number)).mkdir(parents=True)
    _write(crops.train, boxes[: settings.num_train], photographs, settings, crops.loose, on_crop)
    _write(crops.held_out, boxes[settings.num_train :], photographs, settings, None, on_crop)
    temporary = marker.with_name(f"{marker.name}.{os.getpid()}.tmp")
    temporary.write_text(wanted)
    os.replace(temporary, marker)
    return crops


@dataclass(frozen=True, slots=True)
class _Box:
    photograph: int
    top: int
    left: int
    height: int
    width: int


def _boxes(photographs: list[npt.NDArray[np.uint8]], settings: CropSettings) -> list[_Box]:
    """Distinct boxes, the photographs in turn."""
    generator = np.random.default_rng(settings.seed)
    boxes: dict[_Box, None] = {}
    while len(boxes) < settings.num_train + settings.num_held_out:
        number = len(boxes) % len(photographs)
        limits = np.array(photographs[number].shape[:2])
        sides = generator.integers(settings.min_pixels, np.minimum(limits, settings.max_pixels) + 1)
        top, left = generator.integers(0, limits - sides + 1)
        boxes[_Box(number, int(top), int(left), int(sides[0]), int(sides[1]))] = None
    return list(boxes)


def _write(
    folder: Path,
    boxes: list[_Box],
    photographs: list[npt.NDArray[np.uint8]],
    settings: CropSettings,
    loose: Path | None,
    on_crop: Callable[[], None] | None,
) -> None:
    with iopipe.DatasetWriter(folder, max_samples=500) as writer:
        for number, content in enumerate(_encoded(boxes, photographs, settings.quality)):
            label = boxes[number].photograph
            writer.write({"__key__": f"{number:06d}", "jpg": content, "cls": label})
            if loose is not None:
                (loose / str(label) / f"{number:06d}.jpg").write_bytes(content)
            if on_crop is not None:
                on_crop()


def _encoded(
    boxes: list[_Box], photographs: list[npt.NDArray[np.uint8]], quality: int
) -> Iterator[bytes]:
    def encode(box: _Box) -> bytes:
        whole = photographs[box.photograph]
        part = whole[box.top : box.top + box.height, box.left : box.left + box.width]
        content: bytes = simplejpeg.encode_jpeg(np.ascontiguousarray(part), quality=quality)
        return content

    with ThreadPoolExecutor(_THREADS) as pool:
        for first in range(0, len(boxes), 64):  # a bounded number ahead of the writer
            yield from pool.map(encode, boxes[first : first + 64])


def _photographs() -> list[npt.NDArray[np.uint8]]:
    try:
        import skimage.data
    except ImportError as error:
        raise iopipe.MissingDependency(
            "the photographs come with scikit-image: pip install 'iopipe[demo]'"
        ) from error
    folder = Path(skimage.data.__file__).parent
    return [np.array(Image.open(folder / name).convert("RGB")) for name in PHOTOGRAPHS]


def _stem(name: str) -> str:
    return name.rsplit(".", 1)[0].replace("_", " ")
