"""Photographs in a folder to shards: made smaller, shuffled, split, as WebDataset and as Arrow.

`python examples/shard_photographs.py [FOLDER]`; without a folder it takes crops of the
photographs that scikit-image ships (pip install 'iopipe[demo]').
"""

from __future__ import annotations

import dataclasses
import io
import sys
import tempfile
from contextlib import closing
from pathlib import Path

from PIL import Image

import iopipe
from iopipe.bench.photographs import CropSettings, make_crops
from iopipe.jobs import ShardOptions, TransformSpec, shard

PIXELS = 224
FORMATS = ("webdataset", "arrow")


def photographs(folder: Path) -> Path:
    """Loose JPEGs, one folder a class."""
    return make_crops(folder, CropSettings(num_train=160, num_held_out=16)).loose


def write(images: Path, folder: Path, *, format: str) -> Path:
    """Killed at any instant, this goes on where it was; the same seed gives the same shards."""
    smaller = TransformSpec(name="images", options={"resize": PIXELS, "quality": 90})
    options = ShardOptions(
        shard_samples=50,
        shuffle_seed=7,
        transforms=(smaller,),
        splits=(("train", 0.9), ("val", 0.1)),
        on_error="skip",  # what cannot be decoded is listed in rejected.arrow
    )
    report = shard(images, folder / format, dataclasses.replace(options, format=format))
    print(
        f"{format}: {report.num_samples} photographs in {report.num_shards} shards, "
        f"{report.num_bytes:,} bytes, {report.num_rejected} rejected"
    )
    return folder / format / "train"


def content(dataset: Path) -> dict[str, bytes]:
    """The photographs of a dataset by key, in its order, each compared with its checksum."""
    source = iopipe.open_source(dataset, verify="sample")
    with closing(iopipe.open_store(str(dataset))) as store:
        samples = source.samples(range(len(source)), store)
        return dict(zip(samples.keys, map(bytes, samples.columns["jpg"]), strict=True))


def main(images: Path | None = None) -> float:
    """The share of photographs that both datasets hold alike, as small as was asked for."""
    with tempfile.TemporaryDirectory() as name:
        loose = images or photographs(Path(name))
        first, second = (content(write(loose, Path(name), format=format)) for format in FORMATS)
    assert list(first) == list(second), "one seed, one order"
    sides = [min(Image.open(io.BytesIO(raw)).size) for raw in first.values()]
    alike = [
        first[key] == second[key] and side <= PIXELS for key, side in zip(first, sides, strict=True)
    ]
    return sum(alike) / len(alike)


if __name__ == "__main__":
    share = main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
    print(f"{100 * share:.0f} % of the training photographs are alike in both formats")
