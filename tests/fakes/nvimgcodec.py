"""nvImageCodec in memory: its Python names, decoding by libjpeg-turbo and Pillow."""

from __future__ import annotations

import enum
import io
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image


class BackendKind(enum.Enum):
    CPU_ONLY = 1
    GPU_ONLY = 2
    HYBRID_CPU_GPU = 3
    HW_GPU_ONLY = 4


class LoadHintPolicy(enum.Enum):
    IGNORE = 1
    FIXED = 2
    ADAPTIVE_MINIMIZE_IDLE_TIME = 3


class ColorSpec(enum.Enum):
    SRGB = 1


class SampleFormat(enum.Enum):
    I_RGB = 3


@dataclass(frozen=True)
class Backend:
    backend_kind: BackendKind
    load_hint: float = 1.0
    load_hint_policy: LoadHintPolicy = LoadHintPolicy.FIXED


@dataclass(frozen=True)
class DecodeParams:
    apply_exif_orientation: bool = True
    color_spec: ColorSpec = ColorSpec.SRGB
    allow_any_depth: bool = False
    sample_format: Any = None


class CodeStream:
    def __init__(self, array: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
        assert array.dtype == np.uint8 and array.ndim == 1
        self.content = array.tobytes()


class Decoder:
    """`made` holds all decoders of a test; `spoil` changes what they give back."""

    made: list[Decoder]
    spoil: Any

    def __init__(
        self,
        *,
        device_id: int,
        max_num_cpu_threads: int,
        backends: Sequence[Backend],
        options: str,
    ) -> None:
        self.kinds = {backend.backend_kind for backend in backends}
        self.options = options
        self.decoded: list[int] = []
        self._running = threading.Lock()
        self.made.append(self)

    def decode(
        self, streams: Sequence[CodeStream], *, params: DecodeParams, cuda_stream: int
    ) -> list[Any]:
        assert not params.apply_exif_orientation
        assert params.sample_format is SampleFormat.I_RGB
        assert self._running.acquire(blocking=False), "two batches at once"
        try:
            self.decoded.append(len(streams))
            return [self.spoil(self._decoded(stream)) for stream in streams]
        finally:
            self._running.release()

    def _decoded(self, stream: CodeStream) -> Any:
        image = Image.open(io.BytesIO(stream.content))
        if self.kinds == {BackendKind.HW_GPU_ONLY} and "progressive" in image.info:
            return None
        try:
            return np.array(image.convert("RGB"))
        except OSError:
            return None


def install(monkeypatch: pytest.MonkeyPatch, spoil: Any = lambda image: image) -> type[Decoder]:
    """`from nvidia import nvimgcodec` gives this one."""
    package, module = ModuleType("nvidia"), ModuleType("nvidia.nvimgcodec")
    decoder = type("Decoder", (Decoder,), {"made": [], "spoil": staticmethod(spoil)})
    names = (
        BackendKind,
        LoadHintPolicy,
        ColorSpec,
        SampleFormat,
        Backend,
        DecodeParams,
        CodeStream,
    )
    for one in names:
        setattr(module, one.__name__, one)
    module.Decoder = decoder  # type: ignore[attr-defined]
    package.nvimgcodec = module  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "nvidia", package)
    monkeypatch.setitem(sys.modules, "nvidia.nvimgcodec", module)
    return decoder
