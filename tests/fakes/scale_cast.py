"""The smallest kernel there is, to show tuning, timing and compiling on: x * scale, cast."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import triton
import triton.language as tl

from iopipe.bench.kernels.cases import Case
from iopipe.kernels.tuning import Config, Kernel, Problem, resolve


@triton.jit  # type: ignore[untyped-decorator]
def scaled(x, scale):  # type: ignore[no-untyped-def]
    return x.to(tl.float32) * scale


@triton.jit  # type: ignore[untyped-decorator]
def scale_cast_kernel(x, out, scale, num_values, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    start = tl.program_id(0).to(tl.int64) * BLOCK
    at = start + tl.arange(0, BLOCK)
    value = scaled(tl.load(x + at, mask=at < num_values), scale)
    tl.store(out + at, value.to(out.dtype.element_ty), mask=at < num_values)


def _heuristic(problem: Problem) -> Config:
    return Config(blocks={"BLOCK": 1024}, num_warps=4)


def _candidates(problem: Problem) -> Sequence[Config]:
    return [
        Config(blocks={"BLOCK": block}, num_warps=warps)
        for block in (128, 1024, 4096, 16384)
        for warps in (4, 8)
    ]


KERNEL = Kernel(
    name="scale_cast",
    functions=(scale_cast_kernel, scaled),
    heuristic=_heuristic,
    candidates=_candidates,
)


def problem_of(x: torch.Tensor, out: torch.Tensor) -> Problem:
    names = (str(tensor.dtype).removeprefix("torch.") for tensor in (x, out))
    return Problem(dtypes=tuple(names), shape={"values": x.numel()})


def scale_cast(
    x: torch.Tensor, *, scale: float, out: torch.Tensor, config: Config | None = None
) -> torch.Tensor:
    config = config or resolve(KERNEL, problem_of(x, out))
    grid = (triton.cdiv(x.numel(), config.blocks["BLOCK"]),)
    scale_cast_kernel[grid](
        x,
        out,
        scale,
        x.numel(),
        **config.blocks,
        num_warps=config.num_warps,
        num_stages=config.num_stages,
    )
    return out


def twin(x: torch.Tensor, *, scale: float, dtype: torch.dtype) -> torch.Tensor:
    return (x.float() * scale).to(dtype)


def cases(device: str) -> Iterator[Case]:
    """256 Mi values on a GPU, few in the interpreter."""
    for num_values in (1 << 28, 1 << 22) if device == "cuda" else (3000,):
        yield case(num_values, device)


def case(num_values: int, device: str) -> Case:
    x = torch.arange(num_values, device=device).to(torch.uint8)
    out = torch.empty(num_values, dtype=torch.float32, device=device)
    plain = lambda: twin(x, scale=1 / 255, dtype=out.dtype)  # noqa: E731
    return Case(
        kernel=KERNEL,
        name=f"{num_values} uint8 to float32",
        problem=problem_of(x, out),
        num_bytes=x.nbytes + out.nbytes,
        run=lambda config: scale_cast(x, scale=1 / 255, out=out, config=config),
        twin=plain,
        agrees=torch.equal,
        baselines={"torch": plain, "in place": lambda: out.copy_(x).mul_(1 / 255)},
    )


def case_of(kernel: Kernel, problem: Problem, device: str) -> Case | None:
    """A case of exactly this size."""
    return case(problem.shape["values"], device)
