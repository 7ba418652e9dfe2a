"""The engine 'nvimgcodec': NVIDIA nvImageCodec, batches of images decoded on the GPU.

Stands under `device_engine`.  Invariant: a lane decodes one batch at a time; what it gives back
is checked against the header's size before it is used.

JPEGs go to the GPU's JPEG engine and to nvJPEG's CUDA decoder, in shares that nvImageCodec
finds itself; 8-bit RGB in JPEG 2000 to nvJPEG2000, in TIFF to nvTIFF.  It decodes WebP, PNG and
BMP on the CPU, as we do, so they stay with us.

Source: https://docs.nvidia.com/cuda/nvimagecodec, version 0.9.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from iopipe.errors import MissingDependency, PipelineError
from iopipe.loaders.decode.detours import why_not_by_jpeg_decoder, why_not_whole
from iopipe.loaders.decode.images import EncodedImage
from iopipe.loaders.decode.on_device import CHANNELS, Layout, Work, contents_of
from iopipe.loaders.decode.wanted import Wanted

_SMOOTH_CHROMA = ":fancy_upsampling=1"


def library() -> Any:
    """The package, or a message about what to install."""
    try:
        from nvidia import nvimgcodec
    except ImportError as error:
        raise MissingDependency(
            "engines 'nvimgcodec' and 'hybrid' need nvImageCodec: pip install 'iopipe[nvimgcodec]'"
        ) from error
    return nvimgcodec


class Lane:
    """One decoder of nvImageCodec."""

    def __init__(self, backends: Sequence[Any], *, device: torch.device, num_threads: int) -> None:
        self._library = library()
        try:
            self._decoder = self._library.Decoder(
                device_id=device.index or 0,
                max_num_cpu_threads=num_threads,
                backends=list(backends),
                options=_SMOOTH_CHROMA,
            )
        except RuntimeError as error:
            raise PipelineError(f"nvImageCodec cannot decode on {device}: {error}") from error
        self._params = self._library.DecodeParams(
            apply_exif_orientation=False,
            color_spec=self._library.ColorSpec.SRGB,
            allow_any_depth=False,
            sample_format=self._library.SampleFormat.I_RGB,
        )
        self._lock = threading.Lock()

    def decode(
        self, wanted: Wanted, layout: Layout, rows: Sequence[int], packed: torch.Tensor, work: Work
    ) -> tuple[dict[int, str], float]:
        """Fill the places of `rows`; those that could not be decoded, and the seconds it took."""
        if not rows:
            return {}, 0.0
        streams = [self._library.CodeStream(content) for content in contents_of(wanted, rows)]
        handle = 0 if work.stream is None else work.stream.cuda_stream
        with self._lock, work.current():
            start = time.perf_counter()
            images = self._decoder.decode(streams, params=self._params, cuda_stream=handle)
            failed = self._place(dict(zip(rows, images, strict=True)), layout, packed)
            work.wait()  # the images' memory may be used again
            return failed, time.perf_counter() - start

    def _place(
        self, images: dict[int, Any], layout: Layout, packed: torch.Tensor
    ) -> dict[int, str]:
        failed, sources, targets = {}, [], []
        for row, image in images.items():
            expected = (*layout.sizes[row].tolist(), CHANNELS)
            if image is None:
                failed[row] = "nvImageCodec could not decode it"
            elif tuple(image.shape) != expected:
                failed[row] = "nvImageCodec made an image of another shape of it"
            else:
                begin, end = layout.span(row)
                sources.append(torch.as_tensor(image, device=packed.device).reshape(-1))
                targets.append(packed[begin:end])
        if sources:
            torch._foreach_copy_(targets, sources)
        return failed

    def close(self) -> None:
        self._decoder = None


def why_not(image: EncodedImage) -> str | None:
    """Why nvImageCodec would not decode this image on the GPU; None where it would."""
    if image.decoder is None or image.decoder.mode != "RGB":
        return why_not_by_jpeg_decoder(image)
    if image.decoder.format == "JPEG2000":
        return why_not_whole(image)
    return None if image.decoder.format == "TIFF" else why_not_by_jpeg_decoder(image)


def all_backends() -> list[Any]:
    """The JPEG engine first, with as much as leaves nobody idle, then the CUDA decoders."""
    nv = library()
    policy = nv.LoadHintPolicy.ADAPTIVE_MINIMIZE_IDLE_TIME
    return [
        nv.Backend(nv.BackendKind.HW_GPU_ONLY, load_hint=0.8, load_hint_policy=policy),
        nv.Backend(nv.BackendKind.GPU_ONLY),
        nv.Backend(nv.BackendKind.HYBRID_CPU_GPU),
    ]


class NvImageCodec:
    """A `Decoder` of one lane with all backends."""

    def __init__(self, device: torch.device, *, num_threads: int) -> None:
        self._lane = Lane(all_backends(), device=device, num_threads=num_threads)

    def why_not(self, image: EncodedImage) -> str | None:
        return why_not(image)

    def share(self, wanted: Wanted, rows: Sequence[int]) -> Sequence[Sequence[int]]:
        return [rows]

    def decode(
        self, wanted: Wanted, layout: Layout, packed: torch.Tensor, work: Work
    ) -> Callable[[float], dict[int, str]]:
        failed, _ = self._lane.decode(wanted, layout, layout.whole, packed, work)
        return lambda _: failed

    def notes(self) -> tuple[str, ...]:
        return ()

    def close(self) -> None:
        self._lane.close()
