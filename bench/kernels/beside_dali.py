"""The image kernel and DALI's resize and crop_mirror_normalize, on images that are on the device.

Stands beside the cases.  Invariant: both sides take turns in one process, and DALI is fed once
and repeats its last inputs, so that no time of a feeding host counts against it.

    python -m iopipe.bench.kernels.beside_dali
"""

from __future__ import annotations

import json
import statistics
import sys
import time
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
    times = _turns(sides, _wall_microseconds)
    json.dump({"of": "a run, its host's part included", **_row(times)}, sys.stdout)
    print(flush=True)
    difference = _difference(dali, out)
    kernels = _kernel_microseconds(sides)
    json.dump({"of": "kernels", **_row(kernels), "difference": difference}, sys.stdout)
    print()


def _row(times: dict[str, list[float]]) -> dict[str, Any]:
    row = {
        name: {"microseconds": statistics.median(found), "least": min(found), "most": max(found)}
        for name, found in times.items()
    }
    ratio = row["dali"]["microseconds"] / row["iopipe"]["microseconds"]
    return {**row, "times_as_fast": ratio}


def _turns(
    sides: dict[str, Callable[[], Any]], measure: Callable[[Callable[[], Any]], float]
) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(_ROUNDS):
        for name, run in sides.items():
            times[name].append(measure(run))
    return times


def _wall_microseconds(run: Callable[[], Any]) -> float:
    torch.cuda.synchronize()
    begin = time.perf_counter()
    for _ in range(_RUNS):
        run()
    torch.cuda.synchronize()
    return (time.perf_counter() - begin) / _RUNS * 1e6


def _kernel_microseconds(sides: dict[str, Callable[[], Any]]) -> dict[str, list[float]]:
    """The sum of the times of a turn's kernels, without copies of parameters.

    One profile of all turns: whose a kernel is, its name says.
    """
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(_ROUNDS * _RUNS):
            for run in sides.values():
                run()
        torch.cuda.synchronize()
    sums = dict.fromkeys(sides, 0.0)
    for event in profile.events():
        if not event.name.lower().startswith(("memcpy", "memset")):
            sums["iopipe" if "transform_kernel" in event.name else "dali"] += event.device_time
    return {name: [total / (_ROUNDS * _RUNS)] for name, total in sums.items()}


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
            name="whole", device="gpu", layout="HWC", no_copy=True, repeat_last=True
        )
        begin = fn.external_source(name="begin", repeat_last=True)
        end = fn.external_source(name="end", repeat_last=True)
        mirror = fn.external_source(name="mirror", repeat_last=True)
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

    made = graph()
    made.build()
    fed = {"whole": list(batch), "begin": begins, "end": ends, "mirror": mirrored}
    for name, rows in fed.items():
        made.feed_input(name, rows)
    return made


def _difference(dali: Any, out: torch.Tensor) -> float:
    """Mean absolute difference of the two results: that they did the same work."""
    (theirs,) = dali.run()
    rows = [torch.as_tensor(theirs[row], device="cuda") for row in range(len(out))]
    return float((torch.stack(rows).float() - out.float()).abs().mean())


if __name__ == "__main__":
    main()
