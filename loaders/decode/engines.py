"""The engines that are no plain function: opened for one run on its device, closed with it.

Stands between the toolkit and one file an engine.  Invariant: a library is imported when its
engine is opened, never before.
"""

from __future__ import annotations

import os

import torch

from iopipe.errors import PipelineError
from iopipe.loaders.decode.clips import Videos
from iopipe.loaders.decode.stage import check_options
from iopipe.stages import Held, ImageOptions


def open_engine(options: ImageOptions, device: str) -> Held:
    """What decodes by `options.engine` for batches that go to `device`."""
    check_options(options)
    place = torch.device(device)
    num_threads = len(os.sched_getaffinity(0))
    if place.type == "cpu":
        return _on_host(options, num_threads)
    if place.index is None:
        place = torch.device(place.type, torch.cuda.current_device())
    return _on_device(options, place, num_threads)


def _on_host(options: ImageOptions, num_threads: int) -> Held:
    if options.engine != "dali":
        raise PipelineError(
            f"engine {options.engine!r} decodes on a GPU: call batch(n).to('cuda'), or use "
            "engine='cpu' or 'dali'"
        )
    if options.dtype != "uint8" or options.mean or options.std:
        raise PipelineError("pixels on the host are uint8; leave dtype, mean and std out")
    from iopipe.loaders.decode.dali import DaliOnHost
    from iopipe.loaders.decode.dali_video import VideosOnHost

    videos = None if options.clip is None else VideosOnHost(options, num_threads=num_threads)
    return DaliOnHost(options, num_threads=num_threads, videos=videos)


def _on_device(options: ImageOptions, device: torch.device, num_threads: int) -> Held:
    from iopipe.loaders.decode.device_engine import Decoder, DeviceEngine
    from iopipe.loaders.decode.on_device import target_of

    target_of(options)  # whether there is such a kernel is said now
    decoder: Decoder
    videos: Videos | None = None
    if options.engine == "dali":
        from iopipe.loaders.decode.dali import DaliOnDevice
        from iopipe.loaders.decode.dali_video import VideosOnDevice

        decoder = DaliOnDevice(device, num_threads=num_threads)
        if options.clip is not None:
            videos = VideosOnDevice(options, device, num_threads=num_threads)
    elif options.engine == "nvimgcodec":
        from iopipe.loaders.decode.nvimgcodec import NvImageCodec

        decoder = NvImageCodec(device, num_threads=num_threads)
    else:
        from iopipe.loaders.decode.hybrid import Hybrid

        decoder = Hybrid(device, num_threads=num_threads)
    return DeviceEngine(options, decoder, device, num_threads=num_threads, videos=videos)
