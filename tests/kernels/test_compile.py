"""Ahead-of-time compilation: what it reads off machine code that is known."""

from __future__ import annotations

import dataclasses

import pytest
from fakes.scale_cast import scale_cast_kernel

from iopipe.bench.kernels.aot import SMS, Build, CompileError, compile_ahead, name_of, try_compile

SCALE_CAST = Build(
    function=name_of(scale_cast_kernel),
    signature={
        "x": "*u8",
        "out": "*fp32",
        "scale": "fp32",
        "num_values": "i32",
        "BLOCK": "constexpr",
    },
    constants={"BLOCK": 16384},
    aligned=("x", "out", "num_values"),
    options={"num_warps": 4},
)


def test_registers_spills_and_widths_for_every_architecture() -> None:
    """16 kibi values a program of 128 threads are 16-byte loads, if addresses allow it.  Where
    they do not, 128 bytes a thread come one by one and some compilers run out of registers."""
    narrow = dataclasses.replace(SCALE_CAST, aligned=())
    wide, narrow_row = compile_ahead([SCALE_CAST, narrow])
    assert [one.sm for one in wide] == list(SMS)
    for one in wide:
        assert 0 < one.registers <= 255
        assert (one.spills, one.stack_bytes) == (0, 0)
        assert one.load_bits == {128: 8}
        assert one.store_bits == {128: 32}
    assert all(one.load_bits == {8: 128} for one in narrow_row)
    # A spill is seen both ways: as room on the stack and as instructions that use it.
    assert any(one.spills > 128 and one.stack_bytes > 128 for one in narrow_row)
    assert all((one.spills > 0) == (one.stack_bytes > 0) for one in narrow_row)


def test_what_does_not_compile_is_named_and_does_not_hide_the_rest() -> None:
    wrong = dataclasses.replace(SCALE_CAST, constants={"BLOCK": 1000})
    small = dataclasses.replace(SCALE_CAST, constants={"BLOCK": 128})
    first, second, third = try_compile([wrong, small, wrong], sms=[90], num_processes=2)
    for (answer,) in (first, third):
        assert isinstance(answer, CompileError)
    assert getattr(second[0], "store_bits", None) == {32: 1}
    with pytest.raises(
        CompileError, match=r"scale_cast_kernel does not compile for sm_90: .*power of 2"
    ):
        compile_ahead([wrong], sms=[90])
