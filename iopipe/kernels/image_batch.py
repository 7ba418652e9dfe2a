"""What the image kernel takes: packed images, what chance decided for each, and the target.

Stands at the border of the image kernel.  Invariant: all tensors are on one device and of the
kind the kernel reads; what only the device can see (a crop outside its image) is not checked
here but answered there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from iopipe.errors import PipelineError
from iopipe.kernels.border import check_tensor

DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.uint8)
_MAX_SIDE = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedImages:
    """Images of any sizes behind each other, each height x width x channels, without padding.

    The kernel reads whole words of four bytes: up to three bytes before and behind the data,
    in the same words, are read and never used.
    """

    data: torch.Tensor
    """uint8 [bytes], at any address."""
    offsets: torch.Tensor
    """int64 [N]: the first byte of each image; in any order, also twice the same."""
    heights: torch.Tensor
    """int32 [N], 65,535 at most."""
    widths: torch.Tensor
    """int32 [N], 65,535 at most."""
    channels: int = 3
    """1 to 4, of all images."""

    def __len__(self) -> int:
        return self.offsets.numel()

    def check(self) -> None:
        """Raises PipelineError."""
        if not 1 <= self.channels <= 4:
            raise PipelineError(f"channels is {self.channels}: give 1 to 4")
        shape = (len(self),)
        data = self.data
        check_tensor("data", data, like=data, dtypes=(torch.uint8,), shape=(data.numel(),))
        check_tensor("offsets", self.offsets, like=data, dtypes=(torch.int64,), shape=shape)
        check_tensor("heights", self.heights, like=data, dtypes=(torch.int32,), shape=shape)
        check_tensor("widths", self.widths, like=data, dtypes=(torch.int32,), shape=shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageParameters:
    """What chance decided, sample by sample, on the device of the images; None: not done.

    Boxes are int32 [N, 4]: top, left, height, width.  Factors are float32 [N], as torchvision's
    functional transforms take them.  Jitter is applied in the order of the fields.
    """

    crops: torch.Tensor
    """Boxes in pixels of the image; the resize sees the crop alone."""
    flips: torch.Tensor | None = None
    """bool [N]: left and right swapped."""
    brightness: torch.Tensor | None = None
    contrast: torch.Tensor | None = None
    """Needs the mean of the resized image's gray values, and so a launch of its own."""
    saturation: torch.Tensor | None = None
    hue: torch.Tensor | None = None
    """Of the full circle: -0.5 to 0.5."""
    erased: torch.Tensor | None = None
    """Boxes in pixels of the output, filled with `ImageOptions.fill`; height 0: none."""
    partners: torch.Tensor | None = None
    """int64 [N]: the sample that each is mixed with, as that sample comes out without mixing."""
    shares: torch.Tensor | None = None
    """float32 [N]: mixup's lambda, the sample's own part; 1 leaves it as it is."""
    boxes: torch.Tensor | None = None
    """Boxes in pixels of the output that show the partner alone: cutmix; height 0: none."""

    def check(self, images: PackedImages) -> None:
        """Raises PipelineError."""
        data, number = images.data, len(images)
        for name in ("crops", "erased", "boxes"):
            self._check(name, torch.int32, data, (number, 4))
        for name in ("brightness", "contrast", "saturation", "hue", "shares"):
            self._check(name, torch.float32, data, (number,))
        self._check("flips", torch.bool, data, (number,))
        self._check("partners", torch.int64, data, (number,))
        if (self.partners is None) != (self.shares is None and self.boxes is None):
            raise PipelineError("mixing needs partners and shares or boxes: give both or neither")
        colours = {"contrast": (1, 3), "saturation": (3,), "hue": (3,)}
        for name, channels in colours.items():
            if getattr(self, name) is not None and images.channels not in channels:
                raise PipelineError(
                    f"{name} of images with {images.channels} channels: it needs "
                    f"{' or '.join(map(str, channels))}"
                )

    def _check(
        self, name: str, dtype: torch.dtype, like: torch.Tensor, shape: Sequence[int]
    ) -> None:
        tensor = getattr(self, name)
        if tensor is not None:
            check_tensor(name, tensor, like=like, dtypes=(dtype,), shape=shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageOptions:
    """The images that come out, all of one size."""

    height: int = 224
    width: int = 224
    dtype: torch.dtype = torch.bfloat16
    channels_last: bool = False
    """The memory format; the shape is [N, C, height, width] in either case."""
    mean: tuple[float, ...] = ()
    """Per channel, of values in 0..1; (): 0."""
    std: tuple[float, ...] = ()
    """Per channel; (): 1."""
    fill: float = 0.0
    """What erased pixels hold after normalising."""

    def check(self, channels: int) -> None:
        """Raises PipelineError."""
        for name in ("height", "width"):
            if not 1 <= getattr(self, name) <= _MAX_SIDE:
                raise PipelineError(f"{name} is {getattr(self, name)}: give 1 to {_MAX_SIDE}")
        if self.dtype not in DTYPES:
            raise PipelineError(f"dtype is {self.dtype}: give one of {DTYPES}")
        for name in ("mean", "std"):
            given = getattr(self, name)
            if given and self.dtype == torch.uint8:
                raise PipelineError(f"{name} with uint8: its values are 0..255, not normalised")
            if given and len(given) != channels:
                raise PipelineError(f"{name} has {len(given)} values: give {channels}, or none")
        if any(value <= 0 for value in self.std):
            raise PipelineError(f"std is {self.std}: give positive values")

    def affine(self) -> list[float]:
        """Four factors and four shifts (value / std - mean / std), then the fill."""
        std = [*self.std, 1.0, 1.0, 1.0, 1.0][:4]
        mean = [*self.mean, 0.0, 0.0, 0.0, 0.0][:4]
        shifts = [-shift / scale for shift, scale in zip(mean, std, strict=True)]
        return [*(1 / scale for scale in std), *shifts, self.fill]

    def empty(self, number: int, channels: int, *, device: torch.device | str) -> torch.Tensor:
        """Room for a batch: [number, channels, height, width]."""
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        shape = (number, channels, self.height, self.width)
        return torch.empty(shape, dtype=self.dtype, device=device, memory_format=layout)
