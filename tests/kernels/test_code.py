"""The machine code of every kernel: ahead of time, for each architecture, nothing spills."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import triton

from iopipe.bench.kernels import sanitize
from iopipe.bench.kernels.aot import SMS, Build, compile_ahead, name_of

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="records the interpreter")

_POINTERS = {
    torch.bool: "*i1",
    torch.uint8: "*u8",
    torch.int8: "*i8",
    torch.uint16: "*u16",
    torch.int16: "*i16",
    torch.uint32: "*u32",
    torch.int32: "*i32",
    torch.int64: "*i64",
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.float32: "*fp32",
}
_OPTIONS = ("num_warps", "num_stages")


def _build(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Build:
    """What Triton would compile for this launch, by its rules: 1 is a constant, multiples of 16
    are known to be."""
    parameters = inspect.signature(function.fn).parameters
    given = dict(zip(parameters, args, strict=False)) | {
        name: value for name, value in kwargs.items() if name in parameters
    }
    signature, constants, aligned = {}, {}, []
    for name, value in given.items():
        if "constexpr" in str(parameters[name].annotation) or value is None or value is True:
            signature[name], constants[name] = "constexpr", value
        elif isinstance(value, torch.Tensor):
            signature[name] = _POINTERS[value.dtype]
            aligned += [name] if value.data_ptr() % 16 == 0 else []
        elif isinstance(value, int) and value == 1:
            signature[name], constants[name] = "constexpr", 1
        elif isinstance(value, int):
            signature[name] = "i32" if -(2**31) <= value < 2**31 else "i64"
            aligned += [name] if value % 16 == 0 else []
        else:
            signature[name] = "fp32"
    return Build(
        function=name_of(function),
        signature=signature,
        constants=constants,
        aligned=tuple(aligned),
        options={name: kwargs[name] for name in _OPTIONS if name in kwargs},
    )


@contextmanager
def _recorded() -> Iterator[list[Build]]:
    from triton.runtime.interpreter import InterpretedFunction

    builds: list[Build] = []
    run = InterpretedFunction.run

    def noted(self: Any, *args: Any, **kwargs: Any) -> Any:
        build = _build(self, args, kwargs)
        same = [b for b in builds if (b.function, b.constants) == (build.function, build.constants)]
        builds.extend([] if same else [build])
        return run(self, *args, **kwargs)

    InterpretedFunction.run = noted
    try:
        yield builds
    finally:
        InterpretedFunction.run = run


_WIDEST = {"pack_kernel": 64, "_run_kernel": 64, "decode_packed": 128, "decode_ranked": 128}
"""Bits that the widest load has at least, in some launch of the check."""

_SPILLED = {("3.6.0", "_copy_kernel"): 8}
"""Bytes of stack, by Triton and kernel: with 1,024 threads there are 64 registers for each, and
the assembler of Triton 3.6 wants two more in one build; that of 3.9 does not."""


@pytest.mark.parametrize("name", sanitize.CHECKS)
def test_no_kernel_spills_on_any_architecture(name: str) -> None:
    with _recorded() as builds:
        assert sanitize.CHECKS[name]("cpu")
    assert builds
    widest: dict[str, int] = {}
    for build, codes in zip(builds, compile_ahead(builds), strict=True):
        assert [code.sm for code in codes] == list(SMS)
        for code in codes:
            kernel = build.function.partition(":")[2]
            allowed = _SPILLED.get((triton.__version__, kernel), 0)
            assert max(code.spills, code.stack_bytes) <= allowed, (build.function, code)
            widest[kernel] = max(widest.get(kernel, 0), *code.load_bits, 0)
    for kernel, bits in widest.items():
        assert bits >= _WIDEST.get(kernel, 0), widest
