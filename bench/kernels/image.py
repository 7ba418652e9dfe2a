"""Cases of the image kernel: what a vision model's input takes, from packed bytes on.

Stands beside `iopipe.kernels.image`.  Invariant: bytes are those of the crops and of the
output, each once, though users' plain torch resizes the whole images: it has no way to crop
each sample of a batch elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

from iopipe.bench.kernels.cases import Case
from iopipe.kernels.image import KERNEL, problem_of, transform_images
from iopipe.kernels.image_batch import ImageOptions, ImageParameters, PackedImages
from iopipe.kernels.image_twin import agrees, transform_images_twin

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's training images, as torchvision's presets have them."""
OPTIONS = ImageOptions(mean=MEAN, std=STD)


def cases(device: str) -> Iterator[Case]:
    """The bar's shape first; then other targets, augmentations, and scales."""
    images = packed(256, 375, 500, device=device)
    crops = random_resized_crops(images)
    yield _case("256x375x500 crops to 224 bfloat16", images, crops, OPTIONS)
    yield _case("256x375x500 whole to 224 bfloat16", images, whole(images), OPTIONS)
    last = replace(OPTIONS, dtype=torch.float16, channels_last=True)
    yield _case("256x375x500 crops to 224 float16 channels last", images, crops, last)
    plain = ImageOptions(dtype=torch.uint8)
    yield _case("256x375x500 crops to 224 uint8", images, crops, plain)
    yield _case("256x375x500 crops to 224 mixup", images, _mixed(crops), OPTIONS)
    yield _case("256x375x500 crops to 224 jitter erase", images, _jittered(crops), OPTIONS)
    small = packed(256, 96, 96, device=device)
    yield _case("256x96x96 whole to 224 bfloat16", small, whole(small), OPTIONS)
    large = packed(32, 2000, 3000, device=device)
    yield _case("32x2000x3000 whole to 224 bfloat16", large, whole(large), OPTIONS)


def packed(number: int, height: int, width: int, *, device: str) -> PackedImages:
    """Random images of one size; the kernel is told each one's size all the same."""
    generator = torch.Generator(device).manual_seed(0)
    size = height * width * 3
    shape = (number * size,)
    sides = partial(torch.full, (number,), dtype=torch.int32, device=device)
    return PackedImages(
        data=torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator, device=device),
        offsets=torch.arange(number, device=device) * size,
        heights=sides(height),
        widths=sides(width),
    )


def whole(images: PackedImages) -> ImageParameters:
    """No crop, no flip."""
    zeros = torch.zeros_like(images.heights)
    return ImageParameters(crops=torch.stack([zeros, zeros, images.heights, images.widths], 1))


def random_resized_crops(images: PackedImages) -> ImageParameters:
    """Crops and flips as torchvision's RandomResizedCrop and RandomHorizontalFlip draw them."""
    generator = torch.Generator().manual_seed(0)
    sides = zip(images.heights.tolist(), images.widths.tolist(), strict=True)
    crops = [_crop(height, width, generator) for height, width in sides]
    flips = torch.rand(len(images), generator=generator) < 0.5
    device = images.data.device
    return ImageParameters(
        crops=torch.tensor(crops, dtype=torch.int32, device=device), flips=flips.to(device)
    )


def _crop(height: int, width: int, generator: torch.Generator) -> list[int]:
    """(top, left, height, width): area 0.08 to 1, ratio 3/4 to 4/3, ten tries, else the middle."""
    for _ in range(10):
        share, ratio, top, left = torch.rand(4, generator=generator).tolist()
        area = height * width * (0.08 + 0.92 * share)
        root = math.exp((2 * ratio - 1) * math.log(4 / 3) / 2)
        rows, columns = round(math.sqrt(area) / root), round(math.sqrt(area) * root)
        if 0 < rows <= height and 0 < columns <= width:
            places = int(top * (height - rows + 1)), int(left * (width - columns + 1))
            return [*places, rows, columns]
    rows, columns = min(height, round(width * 4 / 3)), min(width, round(height * 4 / 3))
    return [(height - rows) // 2, (width - columns) // 2, rows, columns]


def _mixed(parameters: ImageParameters) -> ImageParameters:
    number = parameters.crops.shape[0]
    generator = torch.Generator().manual_seed(1)
    device = parameters.crops.device
    return replace(
        parameters,
        partners=torch.arange(number - 1, -1, -1, device=device),
        shares=torch.rand(number, generator=generator).to(device),
    )


def _jittered(parameters: ImageParameters) -> ImageParameters:
    number = parameters.crops.shape[0]
    generator = torch.Generator().manual_seed(2)
    draws = torch.rand(4, number, generator=generator).to(parameters.crops.device)
    factors = [0.6 + 0.8 * draw for draw in draws[:3]]
    boxes = torch.randint(0, 112, (number, 4), dtype=torch.int32, generator=generator)
    return replace(
        parameters,
        brightness=factors[0],
        contrast=factors[1],
        saturation=factors[2],
        hue=0.2 * draws[3] - 0.1,
        erased=boxes.to(parameters.crops.device),
    )


def _case(
    name: str, images: PackedImages, parameters: ImageParameters, options: ImageOptions
) -> Case:
    out = options.empty(len(images), images.channels, device=images.data.device)
    return Case(
        kernel=KERNEL,
        name=name,
        problem=problem_of(images, parameters, options),
        num_bytes=_num_bytes(images, parameters, out),
        run=lambda config: transform_images(images, parameters, options, out=out, config=config),
        twin=lambda: transform_images_twin(images, parameters, options),
        agrees=lambda result, exact: agrees(result, exact, options),
        baselines=_baselines(images, options),
    )


def _num_bytes(images: PackedImages, parameters: ImageParameters, out: torch.Tensor) -> int:
    pixels = parameters.crops[:, 2].long() * parameters.crops[:, 3]
    if parameters.partners is not None:
        pixels = pixels + pixels[parameters.partners]
    if parameters.contrast is not None:
        pixels = 2 * pixels
    return int(pixels.sum()) * images.channels + out.numel() * out.element_size()


def _baselines(images: PackedImages, options: ImageOptions) -> dict[str, Callable[[], Any]]:
    """Resize and normalise of the whole images, which are all of one size here."""
    height, width = int(images.heights[0]), int(images.widths[0])
    batch = images.data.view(len(images), height, width, images.channels)
    mean = torch.tensor(options.mean or (0.0,) * 3, device=batch.device).view(3, 1, 1)
    std = torch.tensor(options.std or (1.0,) * 3, device=batch.device).view(3, 1, 1)

    def plain() -> torch.Tensor:
        pixels = batch.permute(0, 3, 1, 2).float() / 255
        resized = F.interpolate(
            pixels, size=(options.height, options.width), mode="bilinear", antialias=True
        )
        scaled = (resized - mean) / std * (255 if options.dtype == torch.uint8 else 1)
        return scaled.to(options.dtype)

    return {"torch": plain, "torch.compile": torch.compile(plain, dynamic=False)}
