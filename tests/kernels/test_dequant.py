"""Dequantisation against its twin; float8 against all 256 of torch's own values."""

from __future__ import annotations

import pytest
import torch
from fakes.guarded import Guards
from hypothesis import given, settings
from hypothesis import strategies as st

from iopipe.errors import PipelineError
from iopipe.kernels.dequant import KERNEL, Affine, dequantize
from iopipe.kernels.dequant_twin import dequantize_twin
from iopipe.kernels.tuning import Config, Problem

FLOAT8 = (torch.float8_e4m3fn, torch.float8_e5m2)
KINDS = (torch.uint8, torch.int8, *FLOAT8)
TILE = Config(blocks={"rows": 4, "columns": 16}, num_warps=1)

# Infinities are values of float8 here; numpy, under the interpreter, warns where they meet.
pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")


def stored(*shape: int, kind: torch.dtype, device: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(len(shape))
    values = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    return values.view(kind).to(device)


def affine(*shape: int, device: str, zero: bool = True, **where: int) -> Affine:
    generator = torch.Generator().manual_seed(3)
    scale = torch.rand(shape, generator=generator) + 0.1
    shift = torch.randint(-9, 9, shape, generator=generator).float()
    return Affine(scale=scale.to(device), zero=shift.to(device) if zero else None, **where)


def assert_same(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """Bit by bit but for NaN; the interpreter cuts bfloat16 off where a GPU rounds."""
    assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
    number = ~theirs.isnan()
    assert torch.equal(~ours.isnan(), number)
    steps = (ours.view(torch.int16).int() - theirs.view(torch.int16).int()).abs()[number]
    may_be_cut_off = ours.dtype == torch.bfloat16 and not ours.is_cuda
    assert steps.numel() == 0 or int(steps.max()) <= may_be_cut_off


@pytest.mark.parametrize("kind", KINDS)
def test_every_byte_is_decoded_exactly(device: str, kind: torch.dtype) -> None:
    values = torch.arange(256, device=device).to(torch.uint8).view(kind)
    one = Affine(scale=torch.ones(1, device=device))
    for dtype in (torch.float16, torch.bfloat16):
        ours = dequantize(values, one, dtype=dtype)
        exact = values.to(torch.float64)
        assert torch.equal(ours.isnan(), exact.isnan())
        known = ~exact.isnan()
        assert torch.equal(ours.to(torch.float64)[known], exact[known])
        assert torch.equal(ours.signbit()[known], exact.signbit()[known])


SCALES: list[tuple[tuple[int, ...], dict[str, int]]] = [
    ((6,), {"dim": 0}),
    ((10,), {"dim": 1}),
    ((12,), {"dim": -1}),
    ((6, 10, 3), {"block": 4}),
    ((6, 10, 12), {"block": 1}),
    ((1,), {}),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("shape", "where"), SCALES)
@pytest.mark.parametrize("max_programs", [None, 2])
def test_channels_and_blocks(
    device: str,
    kind: torch.dtype,
    shape: tuple[int, ...],
    where: dict[str, int],
    max_programs: int | None,
) -> None:
    values = stored(6, 10, 12, kind=kind, device=device)
    for dtype, zero in ((torch.float16, True), (torch.bfloat16, False)):
        scales = affine(*shape, device=device, zero=zero, **where)
        ours = dequantize(values, scales, dtype=dtype, max_programs=max_programs)
        assert_same(ours, dequantize_twin(values, scales, dtype=dtype))


@settings(max_examples=15, deadline=None)
@given(
    shape=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    dim=st.integers(0, 3),
    kind=st.sampled_from(KINDS),
)
def test_any_shape(device: str, shape: list[int], dim: int, kind: torch.dtype) -> None:
    values = stored(*shape, kind=kind, device=device)
    dim %= len(shape)
    scales = affine(shape[dim], device=device, dim=dim)
    ours = dequantize(values, scales, dtype=torch.float16, config=TILE)
    assert_same(ours, dequantize_twin(values, scales, dtype=torch.float16))


def test_the_rounding_is_that_of_float32(device: str) -> None:
    """Against float64: half a step of the output, and the float32 errors before it."""
    values = stored(64, 48, kind=torch.int8, device=device)
    scales = affine(48, device=device, dim=1)
    assert scales.zero is not None
    exact = (values.double() - scales.zero.double()) * scales.scale.double()
    ours = dequantize(values, scales, dtype=torch.float16).double()
    assert ((ours - exact).abs() <= exact.abs() * (2.0**-11 + 2.0**-23)).all()


def test_unaligned_values_and_what_lies_around_the_result(device: str) -> None:
    guards = Guards(device)
    values = guards.room((7, 33), torch.uint8, shift_elements=3)
    values[:] = stored(7, 33, kind=torch.uint8, device=device)
    out = guards.room((7, 33), torch.float16, shift_elements=1)
    scales = affine(7, device=device, dim=0)
    assert dequantize(values, scales, dtype=torch.float16, out=out) is out
    assert_same(out, dequantize_twin(values, scales, dtype=torch.float16))
    guards.check()


def test_every_configuration_gives_the_same_bits(device: str) -> None:
    values = stored(3, 96, 10, kind=torch.float8_e4m3fn, device=device)
    scales = affine(96, device=device, dim=1)
    expected = dequantize(values, scales)
    problem = Problem(dtypes=(), shape={"rows": 288, "columns": 10, "by_column": 0})
    for config in KERNEL.candidates(problem):
        ours = dequantize(values, scales, config=config)
        assert_same(ours.view(torch.int16).to(torch.float16), expected.view(torch.int16).half())


def test_nothing_in_nothing_out(device: str) -> None:
    scales = affine(4, device=device, dim=1)
    assert dequantize(stored(0, 4, kind=torch.int8, device=device), scales).shape == (0, 4)


def test_wrong_input_is_refused(device: str) -> None:
    values = stored(4, 6, kind=torch.int8, device=device)
    scales = affine(6, device=device, dim=1)
    with pytest.raises(PipelineError, match="values is torch.int16"):
        dequantize(values.short(), scales)
    with pytest.raises(PipelineError, match="dtype is torch.float32"):
        dequantize(values, scales, dtype=torch.float32)
    with pytest.raises(PipelineError, match=r"scale has shape \(6,\): give \(4,\)"):
        dequantize(values, Affine(scale=scales.scale, dim=0))
    with pytest.raises(PipelineError, match="zero has shape"):
        dequantize(values, Affine(scale=scales.scale, zero=scales.scale[:1], dim=1))
    with pytest.raises(PipelineError, match="give one of them"):
        dequantize(values, Affine(scale=scales.scale, dim=1, block=2))
    with pytest.raises(PipelineError, match="dim is 2: the values have 2 dimensions"):
        dequantize(values, Affine(scale=scales.scale, dim=2))
    with pytest.raises(PipelineError, match="block is 4: give a divisor"):
        dequantize(values, Affine(scale=scales.scale, block=4))


@pytest.mark.gpu
def test_captured_compiled_and_checked_by_torch() -> None:
    values = stored(64, 256, kind=torch.float8_e4m3fn, device="cuda")
    scales = affine(64, 2, device="cuda", block=128)
    expected = dequantize(values, scales)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = dequantize(values, scales)
    graph.replay()
    assert_same(captured, expected)
    assert_same(torch.compile(dequantize, fullgraph=True)(values, scales), expected)
    arguments = (values, scales.scale, scales.zero, expected, 128, 128, None, [])
    torch.library.opcheck(torch.ops.iopipe.dequantize, arguments)


@pytest.mark.gpu
def test_more_than_2_to_the_31_values() -> None:
    values = torch.zeros((2**31 // 1000 + 5, 1000), dtype=torch.uint8, device="cuda")
    values[-5:] = stored(5, 1000, kind=torch.uint8, device="cuda")
    for where in ({"dim": 0}, {"dim": 1}, {}):
        size = values.shape[where["dim"]] if where else 1
        scales = affine(size, device="cuda", **where)
        ours = dequantize(values, scales)
        dim = where.get("dim")
        assert scales.zero is not None
        last = slice(-5, None) if dim == 0 else slice(None)
        tail = Affine(scale=scales.scale[last], zero=scales.zero[last], dim=dim)
        assert_same(ours[-5:], dequantize_twin(values[-5:], tail))
