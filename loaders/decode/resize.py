"""Crop, antialiased resize and mirror, straight into the row of the result.

Stands under the decode stage.  Invariant: within one unit of rounding of a bilinear filter
whose support grows with the reduction, which is what Pillow and torch call antialiased.

torch's 8-bit kernel is the fastest of those measured (bench/results), but only on contiguous
input, where it also stays in the calling thread; so a crop is copied first.  No other
operation of torch is used here: most would wake its thread pool, whose threads then spin
beside ours (a `flip` of one image doubled the CPU time of all that followed).

That kernel is written for AVX2.  A processor without it gets torch's portable one: the same
rounding, about seven times slower, and parallel (measured with ATEN_CPU_CAPABILITY=default).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from iopipe.loaders.decode.images import Pixels, scratch


def crop_and_resize(pixels: Pixels, box: Sequence[int], target: Pixels, *, mirrored: bool) -> None:
    """Resize the region (top, left, height, width) of `pixels` into `target`, left and
    right swapped where `mirrored`."""
    top, left, height, width = box
    region = pixels[top : top + height, left : left + width]
    if not mirrored:
        _resize(region, target)
        return
    straight = _scratch_like("straight", target)
    _resize(region, straight)
    for channel in range(3):  # a third of the time that a copy of whole pixels takes
        target[..., channel] = straight[:, ::-1, channel]


def _resize(region: Pixels, target: Pixels) -> None:
    if region.shape == target.shape:
        target[...] = region
        return
    contiguous = region
    if not region.flags.c_contiguous:
        contiguous = _scratch_like("region", region)
        contiguous[...] = region
    torch.ops.aten._upsample_bilinear2d_aa.out(
        _planes(contiguous), list(target.shape[:2]), False, None, None, out=_planes(target)
    )


def _scratch_like(name: str, pixels: Pixels) -> Pixels:
    return scratch(name, pixels.size)[: pixels.size].reshape(pixels.shape)


def _planes(pixels: Pixels) -> torch.Tensor:
    """[1, 3, height, width] in channels-last order: the same memory, as torch names it.

    Turned by numpy: each operation of torch lets go of the interpreter lock and has to wait
    for it again, which with many decode threads costs more than the operation.
    """
    return torch.from_numpy(pixels.transpose(2, 0, 1)[None])
