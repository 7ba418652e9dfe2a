"""The image kernel's steps in float64, sample by sample: what its numerics are judged by.

Stands beside `image`.  Invariant: nothing is rounded: the result is float64 whatever the
options' dtype; `agrees` says what the rounded one may differ by.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F

from iopipe.kernels.image_batch import ImageOptions, ImageParameters, PackedImages

TOLERANCE = 1e-5
"""Of values in 0..1, before they are divided by std."""
_DIGITS = {torch.bfloat16: 8, torch.float16: 11}
_LEAST_EXPONENT = {torch.bfloat16: -126, torch.float16: -14}


def transform_images_twin(
    images: PackedImages, parameters: ImageParameters, options: ImageOptions
) -> torch.Tensor:
    """What `transform_images` rounds: float64 [N, C, height, width]; uint8 stays in 0..1.

    Sizes and crops are read on the host.
    """
    shape = (len(images), images.channels, options.height, options.width)
    alone = torch.zeros(shape, dtype=torch.float64, device=images.data.device)
    for number in range(len(images)):
        alone[number] = _sample(images, parameters, options, number)
    if parameters.partners is None:
        return alone
    others = alone[parameters.partners]
    mixed = alone
    if parameters.shares is not None:
        shares = parameters.shares.double().view(-1, 1, 1, 1)
        mixed = shares * alone + (1 - shares) * others
    if parameters.boxes is not None:
        mixed = mixed.clone()
        for number, box in enumerate(parameters.boxes.tolist()):
            _inside(mixed[number], box).copy_(_inside(others[number], box))
    return mixed


def _sample(
    images: PackedImages, parameters: ImageParameters, options: ImageOptions, number: int
) -> torch.Tensor:
    offset, height, width = (
        int(column[number]) for column in (images.offsets, images.heights, images.widths)
    )
    data = images.data[offset : offset + height * width * images.channels]
    image = data.view(height, width, images.channels).permute(2, 0, 1).double() / 255
    resized = _resized(_inside(image, parameters.crops[number].tolist()), options)
    if parameters.flips is not None and bool(parameters.flips[number]):
        resized = resized.flip(2)
    values = _coloured(resized, parameters, number)
    channels = images.channels
    mean = values.new_tensor(options.mean or (0.0,) * channels).view(-1, 1, 1)
    std = values.new_tensor(options.std or (1.0,) * channels).view(-1, 1, 1)
    values = (values - mean) / std
    if parameters.erased is not None:
        _inside(values, parameters.erased[number].tolist()).fill_(options.fill)
    return values


def _resized(image: torch.Tensor, options: ImageOptions) -> torch.Tensor:
    if options.width == 1:
        # torch 2.13 on a CPU repeats the first row when the output is one pixel wide.
        turned = replace(options, height=1, width=options.height)
        if turned.width > 1:
            return _resized(image.transpose(1, 2), turned).transpose(1, 2)
    return F.interpolate(
        image[None],
        size=(options.height, options.width),
        mode="bilinear",
        antialias=True,
        align_corners=False,
    )[0]


def _inside(image: torch.Tensor, box: list[int]) -> torch.Tensor:
    """The part of [C, H, W] that a box shows; boxes may leave the image."""
    top, left, height, width = box
    rows = slice(max(top, 0), max(top + height, 0))
    return image[:, rows, max(left, 0) : max(left + width, 0)]


def _coloured(image: torch.Tensor, parameters: ImageParameters, number: int) -> torch.Tensor:
    if parameters.brightness is not None:
        image = (image * parameters.brightness[number].double()).clamp(0, 1)
    if parameters.contrast is not None:
        image = _blend(image, _gray(image).mean(), parameters.contrast[number].double())
    if parameters.saturation is not None:
        image = _blend(image, _gray(image), parameters.saturation[number].double())
    if parameters.hue is not None:
        image = _hue_shifted(image, parameters.hue[number].double())
    return image


def _gray(image: torch.Tensor) -> torch.Tensor:
    if image.shape[0] == 1:
        return image
    return 0.2989 * image[:1] + 0.587 * image[1:2] + 0.114 * image[2:]


def _blend(image: torch.Tensor, towards: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    return (factor * image + (1 - factor) * towards).clamp(0, 1)


def _hue_shifted(image: torch.Tensor, turn: torch.Tensor) -> torch.Tensor:
    """To hue, saturation and value, and back sextant by sextant (Smith 1978)."""
    red, green, blue = image
    value, least = image.max(0).values, image.min(0).values
    chroma = value - least
    safe = torch.where(chroma > 0, chroma, 1)
    hue = torch.where(value == green, (blue - red) / safe + 2, (red - green) / safe + 4)
    hue = (torch.where(value == red, (green - blue) / safe, hue) / 6 + turn) % 1
    sextant = (hue * 6).floor()
    part = hue * 6 - sextant
    saturation = torch.where(value > 0, chroma / torch.where(value > 0, value, 1), 0)
    p = value * (1 - saturation)
    q = value * (1 - saturation * part)
    t = value * (1 - saturation * (1 - part))
    cases = [
        (value, t, p),
        (q, value, p),
        (p, value, t),
        (p, q, value),
        (t, p, value),
        (value, p, q),
    ]
    shifted = torch.zeros_like(image)
    for case, channels in enumerate(cases):
        shifted = torch.where(sextant % 6 == case, torch.stack(channels), shifted)
    return shifted


def agrees(result: torch.Tensor, exact: torch.Tensor, options: ImageOptions) -> bool:
    """Whether a result is as close to `transform_images_twin`'s as `transform_images` promises."""
    return excess(result, exact, options) <= 1


def excess(result: torch.Tensor, exact: torch.Tensor, options: ImageOptions) -> float:
    """The greatest error as a part of what is allowed; 1: the limit."""
    std = exact.new_tensor(options.std or (1.0,) * exact.shape[1]).view(-1, 1, 1)
    allowed = (TOLERANCE / std).expand_as(exact)
    if options.dtype == torch.uint8:
        exact = exact.clamp(0, 1) * 255
        allowed = torch.full_like(exact, 0.5 + 255 * TOLERANCE)
    elif options.dtype in _DIGITS:
        exact = exact.to(options.dtype).double()
        allowed = allowed + _unit_in_last_place(exact, options.dtype)
    error = (result.double() - exact).abs() / allowed
    return float(error.max()) if error.numel() else 0.0


def _unit_in_last_place(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    exponent = torch.frexp(values).exponent.clamp(min=_LEAST_EXPONENT[dtype] + 1)
    return torch.ldexp(torch.ones_like(values), exponent - _DIGITS[dtype])
