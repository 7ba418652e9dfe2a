"""Jitter, erasing and mixing of the image kernel against float64 and the standard library."""

from __future__ import annotations

import colorsys
from dataclasses import replace

import pytest
import torch
from kernels.image_samples import CROPS, SIDES, boxes, config, factors, packed, sample, target

from iopipe.kernels.image import transform_images
from iopipe.kernels.image_batch import ImageParameters
from iopipe.kernels.image_twin import agrees, excess, transform_images_twin

NUMBER = len(SIDES)


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("brightness", 0.3, 2.0),
        ("contrast", 0.0, 2.0),
        ("saturation", 0.0, 2.0),
        ("hue", -0.5, 0.5),
    ],
)
def test_each_factor(device: str, name: str, low: float, high: float) -> None:
    images, parameters = sample(device)
    factor = factors(NUMBER, low, high, device=device)
    parameters = replace(parameters, **{name: factor})
    result = transform_images(images, parameters, target(), config=config(3))
    exact = transform_images_twin(images, parameters, target())
    assert agrees(result, exact, target()), excess(result, exact, target())


def test_all_together_and_the_grid_changes_no_bit(device: str) -> None:
    images, parameters = sample(device)
    parameters = replace(
        parameters,
        brightness=factors(NUMBER, 0.6, 1.4, device=device),
        contrast=factors(NUMBER, 0.6, 1.4, device=device, seed=1),
        saturation=factors(NUMBER, 0.6, 1.4, device=device, seed=2),
        hue=factors(NUMBER, -0.1, 0.1, device=device, seed=3),
        erased=boxes([(1, 2, 3, 2)] * NUMBER, device=device),
    )
    options = replace(target(), fill=0.25)
    result = transform_images(images, parameters, options, config=config())
    assert agrees(result, transform_images_twin(images, parameters, options), options)
    assert (result[:, :, 1:4, 2:4] == 0.25).all()
    few = transform_images(images, parameters, options, config=config(2, 4), max_programs=2)
    assert torch.equal(few, result)


def test_hue_is_what_the_standard_library_says(device: str) -> None:
    images = packed([(4, 5)], device=device)
    turn = torch.tensor([0.3], device=device)
    parameters = ImageParameters(crops=boxes([(0, 0, 4, 5)], device=device), hue=turn)
    options = replace(target(), height=4, width=5, mean=(), std=())
    result = transform_images(images, parameters, options, config=config(4))
    for place, pixel in enumerate((images.data.double() / 255).view(20, 3).tolist()):
        hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
        expected = colorsys.hsv_to_rgb((hue + float(turn)) % 1, saturation, value)
        assert result[0].view(3, 20)[:, place].tolist() == pytest.approx(expected, abs=1e-5)


def test_contrast_of_one_channel(device: str) -> None:
    images, parameters = sample(device, channels=1)
    options = target(channels=1)
    parameters = replace(parameters, contrast=factors(NUMBER, 0.0, 2.0, device=device))
    result = transform_images(images, parameters, options, config=config(2, 4))
    assert agrees(result, transform_images_twin(images, parameters, options), options)


def test_mixup_cutmix_and_both(device: str) -> None:
    images, parameters = sample(device)
    plain = transform_images(images, parameters, target(), config=config())
    partners = torch.tensor([3, 0, 2, 4, 1], device=device)
    shares = torch.tensor([0.3, 1.0, 0.5, 0.0, 0.9], device=device)
    cuts = boxes(
        [(1, 1, 3, 3), (0, 0, 0, 0), (3, 4, 9, 9), (-1, -2, 3, 4), (0, 0, 4, 6)], device=device
    )
    for changed in ({"shares": shares}, {"boxes": cuts}, {"shares": shares, "boxes": cuts}):
        mixed = replace(parameters, partners=partners, **changed)
        result = transform_images(images, mixed, target(), config=config())
        assert agrees(result, transform_images_twin(images, mixed, target()), target())
        if "boxes" not in changed:
            assert torch.equal(result[1], plain[1]) and torch.equal(result[3], plain[4])
        if "shares" not in changed:
            assert torch.equal(result[1], plain[1]) and torch.equal(result[4], plain[1])


def test_a_partner_that_does_not_exist(device: str) -> None:
    images, _ = sample(device)
    crops = boxes(CROPS, device=device)
    crops[2, 0] = 1  # its image has one row
    parameters = ImageParameters(
        crops=crops,
        partners=torch.tensor([0, 2, 0, -1, 5], device=device),
        shares=torch.ones(NUMBER, device=device),
    )
    result = transform_images(images, parameters, target(), config=config())
    lost = result.isnan().flatten(1)
    assert lost.all(1).tolist() == lost.any(1).tolist() == [False, True, True, True, True]
