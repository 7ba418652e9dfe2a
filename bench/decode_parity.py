"""How far each engine's pixels are from a full decode and exact arithmetic, on real images.

`python -m iopipe.bench.decode_parity --images DIR --json FILE`, with DALI installed; with
`--device cuda` the engines on the GPU, too.  The reference is Pillow's decoder and an
antialiased bilinear resize in float64; random crops and flips, drawn as in training.  Errors
are of 255, in pixels of 8 bits.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from iopipe.bench.harness import write_results
from iopipe.bench.photographs import jpegs_in
from iopipe.errors import MissingDependency
from iopipe.loaders.decode import crops, make_decoder, open_engine
from iopipe.protocols import Samples
from iopipe.stages import EngineName, Fidelity, ImageOptions

SIZE = 224
BATCH = 32
Pixels = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One engine, fidelity and device."""

    engine: EngineName
    fidelity: Fidelity = "exact"
    device: str = "cpu"

    def options(self) -> ImageOptions:
        return ImageOptions(
            size=(SIZE, SIZE),
            crop="random",
            flip=True,
            engine=self.engine,
            fidelity=self.fidelity,
        )


_ON_HOST = (Way(engine="cpu"), Way(engine="cpu", fidelity="scaled"), Way(engine="dali"))
_ON_GPU = tuple(Way(engine=name, device="cuda") for name in ("dali", "nvimgcodec", "hybrid"))


def main() -> None:
    """Compare and write the results."""
    options = _options()
    files = jpegs_in(options.images)[: options.count]
    contents = [path.read_bytes() for path in files]
    references = [_reference(_batch(contents, at)) for at in range(0, len(contents), BATCH)]
    rows = []
    for way in (*_ON_HOST, *(_ON_GPU if options.device == "cuda" else ())):
        try:
            errors = _errors(way, contents, references)
        except MissingDependency as error:
            print(f"{way.engine}: {error}", flush=True)
            continue
        rows.append(_row(way, errors))
        print(rows[-1], flush=True)
    write_results(
        options.json,
        command=f"python -m iopipe.bench.decode_parity --images DIR --count {len(files)} "
        f"--device {options.device} --json FILE",
        cache={"state": "in memory"},
        rows=rows,
    )


def _errors(
    way: Way, contents: Sequence[bytes], references: Sequence[Pixels]
) -> list[npt.NDArray[np.float32]]:
    decode, close = _opened(way)
    try:
        return [
            np.abs(_on_host(decode(_batch(contents, number * BATCH))) - reference).astype(
                np.float32
            )
            for number, reference in enumerate(references)
        ]
    finally:
        close()


def _opened(way: Way) -> tuple[Callable[[Samples], Samples], Callable[[], None]]:
    if way.engine == "cpu":
        return make_decoder(way.options()), lambda: None
    held = open_engine(way.options(), way.device)
    return held, held.close


def _on_host(samples: Samples) -> Pixels:
    column: Any = samples.columns["jpg"]
    return column if isinstance(column, np.ndarray) else np.asarray(column.tensor.cpu())


def _batch(contents: Sequence[bytes], first: int) -> Samples:
    chosen = contents[first : first + BATCH]
    return Samples(
        ids=np.arange(first, first + len(chosen)),
        keys=[str(number) for number in range(len(chosen))],
        columns={"jpg": [memoryview(content) for content in chosen]},
    )


def _reference(samples: Samples) -> Pixels:
    options = Way(engine="cpu").options()
    raws: Any = samples.columns["jpg"]
    whole = [np.asarray(Image.open(io.BytesIO(raw)).convert("RGB")) for raw in raws]
    boxes = crops.boxes(samples, np.array([one.shape[:2] for one in whole], np.int64), options)
    mirrored = crops.flips(samples, options)
    rows = []
    for pixels, (top, left, height, width), flip in zip(whole, boxes, mirrored, strict=True):
        region = pixels[top : top + height, left : left + width].astype(np.float64)
        planes = torch.from_numpy(region).permute(2, 0, 1)[None]
        made = torch.nn.functional.interpolate(
            planes, (SIZE, SIZE), mode="bilinear", antialias=True
        )
        straight = made[0].permute(1, 2, 0).numpy()
        rows.append(straight[:, ::-1] if flip else straight)
    return np.stack(rows)


def _row(way: Way, batches: Sequence[npt.NDArray[np.float32]]) -> dict[str, Any]:
    errors = np.concatenate(batches)
    of_images = errors.mean(axis=(1, 2, 3))
    return {
        "engine": way.engine,
        "fidelity": way.fidelity,
        "device": way.device,
        "num_images": len(errors),
        "mean_error": round(float(of_images.mean()), 4),
        "worst_image_mean_error": round(float(of_images.max()), 4),
        "p99_error": round(float(np.percentile(errors, 99)), 3),
        "p999_error": round(float(np.percentile(errors, 99.9)), 3),
        "max_error": round(float(errors.max()), 3),
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--count", type=int, default=256)
    return parser.parse_args()


if __name__ == "__main__":
    main()
