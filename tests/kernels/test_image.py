"""The image kernel's resize against F.interpolate in float64, wherever images lie."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from fakes.guarded import Guards
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels.image_samples import CROPS, SIDES, boxes, config, packed, sample, target

from iopipe.errors import PipelineError
from iopipe.kernels.image import transform_images
from iopipe.kernels.image_batch import ImageOptions, ImageParameters
from iopipe.kernels.image_twin import agrees, excess, transform_images_twin


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.uint8])
def test_every_dtype_is_as_close_as_promised(device: str, dtype: torch.dtype) -> None:
    images, parameters = sample(device)
    options = target(dtype)
    result = transform_images(images, parameters, options, config=config())
    exact = transform_images_twin(images, parameters, options)
    assert result.dtype == dtype
    assert agrees(result, exact, options), excess(result, exact, options)


def test_the_limit_is_one() -> None:
    options = target(torch.bfloat16)
    exact = torch.full((1, 3, 4, 6), 1.0, dtype=torch.float64)
    above = exact.bfloat16() + 2**-7
    assert 0.9 < excess(above, exact, options) <= 1
    assert not agrees(above + 2**-7, exact, options)
    assert not agrees(exact.float() + 1e-4, exact, target())
    assert not agrees(exact * float("nan"), exact, target())


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_any_number_of_channels(device: str, channels: int) -> None:
    images, parameters = sample(device, channels=channels)
    options = target(channels=channels)
    result = transform_images(images, parameters, options, config=config())
    assert agrees(result, transform_images_twin(images, parameters, options), options)


def test_a_column_of_pixels(device: str) -> None:
    images = packed([(5, 2), (2, 1)], device=device)
    parameters = ImageParameters(crops=boxes([(0, 0, 5, 2), (0, 0, 2, 1)], device=device))
    narrow = replace(target(), height=3, width=1)
    result = transform_images(images, parameters, narrow, config=config(3))
    assert agrees(result, transform_images_twin(images, parameters, narrow), narrow)
    rows = result[1, 0, :, 0].tolist()
    assert rows[1] == pytest.approx((rows[0] + rows[2]) / 2) and rows[0] != rows[2]


@settings(max_examples=5, deadline=None)
@given(
    sides=st.lists(st.tuples(st.integers(1, 12), st.integers(1, 25)), min_size=1, max_size=2),
    height=st.integers(1, 5),
    width=st.integers(1, 9),
    shift=st.integers(0, 3),
    data=st.data(),
)
def test_any_crop_of_any_image(
    device: str,
    sides: list[tuple[int, int]],
    height: int,
    width: int,
    shift: int,
    data: st.DataObject,
) -> None:
    crops = []
    for rows, columns in sides:
        top = data.draw(st.integers(0, rows - 1))
        left = data.draw(st.integers(0, columns - 1))
        size = data.draw(st.integers(1, rows - top)), data.draw(st.integers(1, columns - left))
        crops.append((top, left, *size))
    images = packed(sides, device=device, shift=shift)
    parameters = ImageParameters(crops=boxes(crops, device=device))
    options = target(height=height, width=width)
    result = transform_images(images, parameters, options, config=config(rows=3))
    assert agrees(result, transform_images_twin(images, parameters, options), options)


def test_the_grid_and_the_configuration_change_no_bit(device: str) -> None:
    images, parameters = sample(device)
    expected = transform_images(images, parameters, target(), config=config())
    other = config(3, 8, ahead=2)
    assert torch.equal(transform_images(images, parameters, target(), config=other), expected)
    few = transform_images(images, parameters, target(), config=config(2, 4), max_programs=3)
    assert torch.equal(few, expected)


def test_channels_last_holds_the_same_values(device: str) -> None:
    images, parameters = sample(device)
    expected = transform_images(images, parameters, target(), config=config())
    options = replace(target(), channels_last=True)
    result = transform_images(images, parameters, options, config=config())
    assert result.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(result, expected)


def test_a_sample_does_not_know_its_place(device: str) -> None:
    images, parameters = sample(device)
    assert parameters.flips is not None
    order = torch.tensor([3, 0, 4, 1, 2], device=device)
    moved = replace(
        images,
        offsets=images.offsets[order],
        heights=images.heights[order],
        widths=images.widths[order],
    )
    crops, flips = parameters.crops[order], parameters.flips[order]
    result = transform_images(
        moved, ImageParameters(crops=crops, flips=flips), target(), config=config()
    )
    expected = transform_images(images, parameters, target(), config=config())
    assert torch.equal(result, expected[order])


def test_without_a_resize_nothing_changes(device: str) -> None:
    images = packed([(4, 6)], device=device)
    parameters = ImageParameters(crops=boxes([(0, 0, 4, 6)], device=device))
    result = transform_images(images, parameters, target(torch.uint8), config=config())
    assert torch.equal(result[0], images.data.view(4, 6, 3).permute(2, 0, 1))


def test_nothing_around_a_slot_is_written(device: str) -> None:
    guards = Guards(device)
    images, parameters = sample(device)
    for dtype, config_ in ((torch.float32, config(3, 8)), (torch.uint8, config(2, 16))):
        options = target(dtype)
        out = guards.room((len(SIDES), 3, 4, 6), dtype, shift_elements=1)
        assert transform_images(images, parameters, options, out=out, config=config_) is out
        assert agrees(out, transform_images_twin(images, parameters, options), options)
    guards.check()


def test_what_does_not_exist_is_nan(device: str) -> None:
    images, _ = sample(device)
    crops = boxes(CROPS, device=device)
    crops[0, 3] += 2  # a crop that is wider than its image
    crops[3, 2] = 0
    images.offsets[4] += 1  # the last image leaves the data
    parameters = ImageParameters(crops=crops)
    result = transform_images(images, parameters, target(), config=config())
    lost = result.isnan().flatten(1)
    assert lost.all(1).tolist() == [True, False, False, True, True]
    assert lost.any(1).tolist() == [True, False, False, True, True]
    levels = transform_images(images, parameters, target(torch.uint8), config=config())
    assert not levels[[0, 3, 4]].any() and levels[1].any()


def test_no_images_no_launch(device: str) -> None:
    images = packed([], device=device)
    parameters = ImageParameters(crops=boxes([], device=device))
    assert transform_images(images, parameters, target()).shape == (0, 3, 4, 6)


def test_images_behind_2_to_the_31_bytes(device: str) -> None:
    images, parameters = sample(device)
    start = 2**31 + 1
    # What is not written is not backed by memory on the host.
    data = torch.empty(start + images.data.numel(), dtype=torch.uint8, device=device)
    data[start:] = images.data
    far = replace(images, data=data, offsets=images.offsets + start)
    expected = transform_images(images, parameters, target(), config=config())
    result = transform_images(far, parameters, target(), config=config())
    assert torch.equal(result, expected)


def test_torch_finds_the_operator_well_made(device: str) -> None:
    images, parameters = sample(device)
    out = target().empty(1, 3, device=device)
    rows = [images.offsets, images.heights, images.widths, parameters.crops]
    arguments = (
        out, images.data, [row[2:3].clone() for row in rows], None, [None] * 4, None, None, None,
        None, False, target().affine(), True, None, [],
    )  # fmt: skip
    checks = ("test_schema", "test_faketensor")
    torch.library.opcheck(torch.ops.iopipe.transform_images, arguments, test_utils=checks)


def test_wrong_input_is_refused(device: str) -> None:
    images, parameters = sample(device)
    crops = parameters.crops
    with pytest.raises(PipelineError, match=r"heights is torch\.int64: give int32"):
        transform_images(replace(images, heights=images.heights.long()), parameters, target())
    with pytest.raises(PipelineError, match=r"crops has shape \(4, 4\): give \(5, 4\)"):
        transform_images(images, ImageParameters(crops=crops[:4]), target())
    with pytest.raises(PipelineError, match="channels is 5: give 1 to 4"):
        transform_images(replace(images, channels=5), parameters, target())
    with pytest.raises(PipelineError, match="mixing needs partners and shares or boxes"):
        transform_images(images, replace(parameters, boxes=crops), target())
    with pytest.raises(PipelineError, match="hue of images with 1 channels: it needs 3"):
        hue = torch.zeros(5, device=device)
        transform_images(replace(images, channels=1), replace(parameters, hue=hue), target())
    with pytest.raises(PipelineError, match="mean has 3 values: give 1, or none"):
        transform_images(replace(images, channels=1), parameters, target())
    with pytest.raises(PipelineError, match="mean with uint8"):
        transform_images(images, parameters, ImageOptions(dtype=torch.uint8, mean=(0.5,) * 3))
    with pytest.raises(PipelineError, match=r"std is \(0\.0,.*: give positive values"):
        transform_images(images, parameters, ImageOptions(std=(0.0,) * 3))
    with pytest.raises(PipelineError, match="width is 0: give 1 to 8192"):
        transform_images(images, parameters, ImageOptions(width=0))
    with pytest.raises(PipelineError, match="max_programs is 0"):
        transform_images(images, parameters, target(), max_programs=0)
    with pytest.raises(PipelineError, match=r"out is torch\.float32 .*: give torch\.bfloat16"):
        out = target().empty(5, 3, device=device)
        transform_images(images, parameters, target(torch.bfloat16), out=out)
    with pytest.raises(PipelineError, match=r"make it with options\.empty"):
        last = replace(target(), channels_last=True)
        transform_images(images, parameters, last, out=target().empty(5, 3, device=device))
