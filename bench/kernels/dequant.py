"""Cases of the dequantisation: rows, blocks and channels of about half a billion values.

Stands between the dequantisation and whoever times it.  Invariant: the compiled twin reads
the same bytes and rounds to the same bits.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from iopipe.bench.kernels.cases import Case
from iopipe.kernels.dequant import KERNEL, Affine, dequantize, problem_of
from iopipe.kernels.dequant_twin import dequantize_twin
from iopipe.kernels.tuning import Config


def cases(device: str) -> Iterator[Case]:
    """int8 by row (the bar's), float8 by blocks and rows, and columns of few and many channels."""
    tokens, width = 131072, 4096
    yield _case("int8 by row", (tokens, width), torch.int8, torch.bfloat16, device, dim=0)
    yield _case(
        "e4m3 by blocks of 128", (tokens, width), torch.float8_e4m3fn, torch.bfloat16, device,
        zero=False, block=128,
    )  # fmt: skip
    yield _case(
        "e5m2 by row", (tokens, width), torch.float8_e5m2, torch.float16, device, zero=False, dim=0
    )
    yield _case("uint8 by column", (tokens, width), torch.uint8, torch.float16, device, dim=1)
    yield _case(
        "uint8 pixels by channel", (256, 224, 224, 3), torch.uint8, torch.bfloat16, device, dim=3
    )
    yield _case(
        "int8 by blocks of 32", (32768, width), torch.int8, torch.bfloat16, device, block=32
    )


def _case(
    name: str,
    shape: tuple[int, ...],
    kind: torch.dtype,
    dtype: torch.dtype,
    device: str,
    *,
    zero: bool = True,
    dim: int | None = None,
    block: int | None = None,
) -> Case:
    # No byte above 120: float8's infinities and NaN, which no equality finds equal, lie there.
    values = torch.randint(0, 120, shape, dtype=torch.uint8, device=device).view(kind)
    size = (shape[dim],) if dim is not None else (*shape[:-1], shape[-1] // (block or 1))
    scale = torch.rand(size, device=device) + 0.5
    shift = torch.randint(0, 99, size, device=device).float() if zero else None
    affine = Affine(scale=scale, zero=shift, dim=dim, block=block)
    out = torch.empty(shape, dtype=dtype, device=device)

    def run(config: Config | None) -> torch.Tensor:
        return dequantize(values, affine, dtype=dtype, out=out, config=config)

    def twin() -> torch.Tensor:
        return dequantize_twin(values, affine, dtype=dtype)

    return Case(
        kernel=KERNEL,
        name=f"{name}, {' x '.join(map(str, shape))}",
        problem=problem_of(values, affine, dtype),
        num_bytes=values.nbytes + out.nbytes + scale.nbytes * (1 + zero),
        run=run,
        twin=twin,
        agrees=torch.equal,
        baselines={"torch.compile": torch.compile(twin, dynamic=False)},
    )
