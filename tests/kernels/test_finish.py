"""The kernel that ends a feed of the training benchmark against plain torch."""

from __future__ import annotations

import torch

from iopipe.bench.feeds import Finish


def test_pixels_become_what_the_network_takes(device: str) -> None:
    finish = Finish(device, 8)
    reference = Finish("cpu", 8)
    generator = torch.Generator().manual_seed(0)
    for number in (2, 1):
        pixels = torch.randint(0, 256, (number, 8, 8, 3), dtype=torch.uint8, generator=generator)
        found = finish.by_kernel(pixels.to(device))
        assert found.dtype == torch.bfloat16
        assert found.is_contiguous(memory_format=torch.channels_last)
        # Two roundings to bfloat16 of values below 4 are at most 2**-6 apart.
        expected = reference(pixels).bfloat16().float()
        torch.testing.assert_close(found.cpu().float(), expected, rtol=0, atol=2**-6)
