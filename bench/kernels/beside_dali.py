"""The image kernel and DALI's resize and crop_mirror_normalize, on images that are on the device.

Stands beside the cases.  Invariant: what is compared is the time that kernels run on the GPU, of
both sides in turns in one process; feeding a graph, which is the host's time, is not counted.

    python -m iopipe.bench.kernels.beside_dali
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable
from typing import Any

import torch

from iopipe.errors import MissingDependency

_ROUNDS = 7
_RUNS = 10
_SIDE = 224


def main() -> None:
    """The bar's shape: random-resized crops and flips of 256 images to normalised 16 bits."""
    from iopipe.bench.kernels.image import OPTIONS, packed, random_resized_crops
    from iopipe.kernels.image import transform_images

    images = packed(256, 375, 500, device="cuda")
    parameters = random_resized_crops(images)
    out = OPTIONS.empty(len(images), 3, device="cuda")
    batch = images.data.view(len(images), 375, 500, 3)
    dali = _pipeline(batch, parameters.crops.cpu(), parameters.flips)
    sides: dict[str, Callable[[], Any]] = {
        "iopipe": lambda: transform_images(images, parameters, OPTIONS, out=out),
        "dali": dali.run,
    }
    for run in sides.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(_ROUNDS):
        for name, run in sides.items():
            times[name].append(_kernel_microseconds(run))
    row = {
        name: {"microseconds": statistics.median(found), "least": min(found), "most": max(found)}
        for name, found in times.items()
    }
    ratio = statistics.median(times["dali"]) / statistics.median(times["iopipe"])
    json.dump({**row, "times_as_fast": ratio, "difference": _difference(dali, out)}, sys.stdout)
    print()


def _kernel_microseconds(run: Callable[[], Any]) -> float:
    """The sum of the times of one run's kernels; copies of parameters are not in it."""
    kinds = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=kinds) as profile:
        for _ in range(_RUNS):
            run()
        torch.cuda.synchronize()
    spans = [
        event.device_time
        for event in profile.events()
        if not event.name.lower().startswith(("memcpy", "memset"))
    ]
    return float(sum(spans)) / _RUNS


def _pipeline(batch: torch.Tensor, crops: torch.Tensor, flips: torch.Tensor | None) -> Any:
    try:
        from nvidia.dali import fn, pipeline_def, types
    except ImportError as error:
        raise MissingDependency("DALI is compared with: pip install 'iopipe[dali]'") from error
    from iopipe.bench.kernels.image import MEAN, STD

    begins = [crop[:2].float().numpy() for crop in crops]
    ends = [(crop[:2] + crop[2:]).float().numpy() for crop in crops]
    mirrored = [] if flips is None else [flip.int().numpy() for flip in flips.cpu()]

    @pipeline_def(batch_size=len(batch), num_threads=4, device_id=0)  # type: ignore[untyped-decorator]
    def graph() -> Any:
        whole = fn.external_source(
            source=lambda: list(batch), device="gpu", layout="HWC", no_copy=True
        )
        begin = fn.external_source(source=lambda: begins)
        end = fn.external_source(source=lambda: ends)
        mirror = fn.external_source(source=lambda: mirrored)
        resized = fn.resize(
            whole,
            roi_start=begin,
            roi_end=end,
            size=(_SIDE, _SIDE),
            interp_type=types.INTERP_LINEAR,
            antialias=True,
        )
        return fn.crop_mirror_normalize(
            resized,
            mirror=mirror,
            mean=[255 * value for value in MEAN],
            std=[255 * value for value in STD],
            dtype=types.FLOAT16,
            output_layout="CHW",
        )

    return graph()


def _difference(dali: Any, out: torch.Tensor) -> float:
    """Mean absolute difference of the two results: that they did the same work."""
    (theirs,) = dali.run()
    rows = [torch.as_tensor(theirs[row], device="cuda") for row in range(len(out))]
    return float((torch.stack(rows).float() - out.float()).abs().mean())


if __name__ == "__main__":
    main()
