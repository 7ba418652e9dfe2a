"""DALI alone, as its guide has it: its reader, its decoder, its resize, its normalisation.

With one `--setting threads:load:decoder` it is measured as every contestant is; with several
each is timed for a moment and the fastest one printed.  decoder: 'crop' decodes the random
region, 'whole' the whole image.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import torch
from nvidia.dali import fn, pipeline_def, types
from ready import MEAN, STD, arguments, measure, seen

_TRIAL_BATCHES = 4


def built(setting: str) -> Any:
    threads, load, decoder = setting.split(":")
    is_cuda = chosen.device != "cpu"
    shards = sorted(str(path) for path in (chosen.dataset / "shards").glob("*.tar"))

    @pipeline_def(
        batch_size=chosen.batch, num_threads=int(threads), device_id=0 if is_cuda else None
    )
    def graph() -> Any:
        encoded = fn.readers.webdataset(
            paths=shards,
            index_paths=[f"{shard}.idx" for shard in shards],
            ext=["jpg"],
            random_shuffle=True,
            initial_fill=1024,
            name="reader",
        )
        options = {"hw_decoder_load": float(load)} if is_cuda else {}
        device = "mixed" if is_cuda else "cpu"
        side = {"size": (chosen.size, chosen.size), "antialias": True}
        if decoder == "crop":
            cut = fn.decoders.image_random_crop(encoded, device=device, **options)
            images = fn.resize(cut, interp_type=types.INTERP_LINEAR, **side)
        else:
            whole = fn.decoders.image(encoded, device=device, **options)
            images = fn.random_resized_crop(whole, interp_type=types.INTERP_LINEAR, **side)
        return fn.crop_mirror_normalize(
            images,
            mirror=fn.random.coin_flip(),
            mean=[255 * value for value in MEAN],
            std=[255 * value for value in STD],
            dtype=types.FLOAT16,
            output_layout="CHW",
        )

    pipeline = graph()
    pipeline.build()
    return pipeline


def batches() -> Iterator[Any]:
    pipeline = built(chosen.setting[0])

    def endless() -> Iterator[Any]:
        while True:
            (images,) = pipeline.run()
            yield images

    yield from seen(endless(), chosen.device)


def trial(setting: str) -> float:
    """Samples a second."""
    pipeline = built(setting)
    for _ in range(_TRIAL_BATCHES):
        pipeline.run()
    start, number = time.perf_counter(), 0
    while time.perf_counter() - start < chosen.seconds:
        pipeline.run()
        number += 1
    if chosen.device != "cpu":
        torch.cuda.synchronize()
    return number * chosen.batch / (time.perf_counter() - start)


if __name__ == "__main__":
    parser = arguments()
    parser.add_argument("--setting", nargs="+", required=True)
    chosen = parser.parse_args()
    if len(chosen.setting) == 1:
        measure(batches, chosen)
    else:
        print(json.dumps({setting: trial(setting) for setting in chosen.setting}), flush=True)
