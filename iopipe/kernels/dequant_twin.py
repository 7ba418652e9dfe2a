"""The dequantisation in plain torch: what tests compare with.

Stands beside dequant.py.  Invariant: torch's own conversions of float8 decode here.
"""

from __future__ import annotations

import torch

from iopipe.kernels.dequant import Affine


def dequantize_twin(
    values: torch.Tensor, affine: Affine, *, dtype: torch.dtype = torch.bfloat16
) -> torch.Tensor:
    """(value - zero) * scale in float32, rounded once."""
    value = values.to(torch.float32)
    shape = list(value.shape)
    if affine.block is not None:
        value = value.unflatten(-1, (-1, affine.block))
        wide = (*affine.scale.shape, 1)
    elif affine.dim is not None:
        wide = tuple(size if i == affine.dim % len(shape) else 1 for i, size in enumerate(shape))
    else:
        wide = (1,) * len(shape)
    if affine.zero is not None:
        value = value - affine.zero.view(wide)
    return (value * affine.scale.view(wide)).to(dtype).view(shape)
