"""The image kernel on a GPU: real sizes, capture, compilation, NVIDIA's instructions."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from kernels.image_samples import boxes, config, factors, packed, sample, target

from iopipe.kernels.image import KERNEL, problem_of, transform_images
from iopipe.kernels.image_batch import ImageOptions, ImageParameters
from iopipe.kernels.image_twin import agrees, excess, transform_images_twin
from iopipe.kernels.tuning import Config

pytestmark = pytest.mark.gpu

SIDES = [(375, 500), (500, 333), (64, 80), (1200, 1700), (300, 3), (224, 224)]
CROPS = [(10, 20, 300, 380), (0, 0, 500, 333), (3, 5, 60, 70), (0, 0, 1200, 1700), (9, 0, 9, 3),
         (0, 0, 224, 224)]  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_photograph_sizes(dtype: torch.dtype) -> None:
    images = packed(SIDES, device="cuda")
    crops = boxes(CROPS, device="cuda")
    flips = torch.arange(len(SIDES), device="cuda") % 2 == 0
    parameters = ImageParameters(crops=crops, flips=flips)
    options = replace(target(dtype), height=224, width=224)
    result = transform_images(images, parameters, options)
    exact = transform_images_twin(images, parameters, options)
    assert agrees(result, exact, options), excess(result, exact, options)


def test_every_candidate_gives_the_same_bits() -> None:
    images = packed(SIDES, device="cuda")
    parameters = ImageParameters(crops=boxes(CROPS, device="cuda"))
    options = ImageOptions(height=96, width=97)
    expected = transform_images(images, parameters, options)
    for candidate in KERNEL.candidates(problem_of(images, parameters, options))[::4]:
        for ptx in (0, 1):
            blocks = {**candidate.blocks, "PTX": ptx}
            tried = Config(blocks=blocks, num_warps=candidate.num_warps)
            result = transform_images(images, parameters, options, config=tried)
            assert torch.equal(result, expected), tried


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_the_instructions_of_nvidia_change_no_bit(channels: int) -> None:
    sides = [(5, width) for width in (12, 16, 17, 24, 25, 33, 41, 49, 64)]
    images = packed(sides, device="cuda", channels=channels)
    crops = boxes([(0, 0, *side) for side in sides], device="cuda")
    options = target(channels=channels, height=4, width=16)
    results = [
        transform_images(images, ImageParameters(crops=crops), options, config=config(ptx=ptx))
        for ptx in (0, 1)
    ]
    assert torch.equal(*results)


def test_a_captured_graph_reads_new_images() -> None:
    images, parameters = sample("cuda")
    parameters = replace(parameters, contrast=factors(5, 0.5, 1.5, device="cuda"))
    out = target().empty(5, 3, device="cuda")
    transform_images(images, parameters, target(), out=out)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        transform_images(images, parameters, target(), out=out)
    for seed in (1, 2):
        generator = torch.Generator("cuda").manual_seed(seed)
        images.data.random_(0, 256, generator=generator)
        graph.replay()
        assert torch.equal(out, transform_images(images, parameters, target()))


def test_compiled_and_checked_by_torch() -> None:
    images, parameters = sample("cuda")
    partners = torch.arange(4, -1, -1, device="cuda")
    shares = factors(5, 0, 1, device="cuda")
    parameters = replace(parameters, partners=partners, shares=shares)
    options = target(torch.bfloat16)

    @torch.compile(fullgraph=True)
    def compiled(data: torch.Tensor) -> torch.Tensor:
        return transform_images(replace(images, data=data), parameters, options) * 2

    expected = transform_images(images, parameters, options) * 2
    assert torch.equal(compiled(images.data), expected)
    out = options.empty(5, 3, device="cuda")
    rows = [images.offsets, images.heights, images.widths, parameters.crops]
    arguments = (
        out, images.data, rows, parameters.flips, [None] * 4, None, partners, shares, None, False,
        options.affine(), False, None, [],
    )  # fmt: skip
    torch.library.opcheck(torch.ops.iopipe.transform_images, arguments)
