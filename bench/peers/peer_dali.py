"""DALI on the CPU over the tar shards: its reader, its decoder of regions, its antialiased
resize; --threads threads."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
from nvidia.dali import fn, pipeline_def, types
from peer import run


def batches(options: argparse.Namespace) -> Iterator[Any]:
    shards = sorted(os.fspath(path) for path in (options.dataset / "shards").glob("*.tar"))

    @pipeline_def(batch_size=options.batch, num_threads=options.threads, device_id=None)
    def graph() -> Any:
        content = fn.readers.webdataset(
            paths=shards, ext=["jpg"], random_shuffle=options.shuffle != "none", name="reader"
        )
        region = fn.decoders.image_random_crop(
            content, device="cpu", random_area=[0.08, 1.0], random_aspect_ratio=[3 / 4, 4 / 3]
        )
        resized = fn.resize(
            region,
            size=[options.size, options.size],
            interp_type=types.INTERP_LINEAR,
            antialias=True,
        )
        return fn.flip(resized, horizontal=fn.random.coin_flip())

    pipeline = graph()
    pipeline.build()
    while True:
        (pixels,) = pipeline.run()
        yield np.array(pixels.as_tensor())  # DALI takes its memory back with the next run


if __name__ == "__main__":
    run(batches)
