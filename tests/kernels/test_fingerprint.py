"""The key's word for a kernel's source: code counts, writing does not."""

from __future__ import annotations

import dataclasses

import pytest
import triton
import triton.language as tl
from fakes.scale_cast import KERNEL, scale_cast_kernel, scaled

from iopipe.kernels.configs import Kernel
from iopipe.kernels.fingerprint import fingerprint, normalised

SOURCE = """
@triton.jit
def kernel(x, out, BLOCK: tl.constexpr = 64):
    at = tl.arange(0, BLOCK)
    tl.store(out + at, tl.load(x + at) * 2)
"""
FACTOR = tl.constexpr(3)


@triton.jit  # type: ignore[untyped-decorator]
def tripled(x):  # type: ignore[no-untyped-def]
    return x * FACTOR


def _halved(x, scale):  # type: ignore[no-untyped-def]
    return x.to(tl.float32) * (scale / 2)


def test_comments_docstrings_and_layout_do_not_count() -> None:
    written = (
        SOURCE.replace("    at =", '    """Twice."""\n    at =')
        .replace("* 2)", "* 2,  # why\n    )")
        .replace("def kernel(x, out,", "def kernel(\n    x,\n    out,")
    )
    assert normalised(written) == normalised(SOURCE)
    indented = "".join(f"    {line}\n" for line in SOURCE.splitlines())
    assert normalised(indented) == normalised(SOURCE)


@pytest.mark.parametrize(
    ("old", "new"),
    [("* 2", "* 3"), ("= 64", "= 128"), ("@triton.jit", "@triton.jit(noinline=True)"), ("at", "i")],
)
def test_code_counts(old: str, new: str) -> None:
    assert normalised(SOURCE.replace(old, new)) != normalised(SOURCE)


def test_the_text_is_the_same_in_every_python() -> None:
    """Written out: newer Pythons know fields that `ast.dump` would show."""
    assert normalised("def f(x, *, y=1):\n    return x[1:] or f'{y!r}'\n") == (
        "Module(body=[FunctionDef(name='f',args=arguments(args=[arg(arg='x')],"
        "kwonlyargs=[arg(arg='y')],kw_defaults=[Constant(value=1)]),body=[Return("
        "value=BoolOp(op=Or(),values=[Subscript(value=Name(id='x'),"
        "slice=Slice(lower=Constant(value=1))),JoinedStr(values=[FormattedValue("
        "value=Name(id='y'),conversion=114)])]))])])"
    )


def test_helpers_and_constants_count(monkeypatch: pytest.MonkeyPatch) -> None:
    before = fingerprint(KERNEL)
    assert len(before) == 16
    called_only = dataclasses.replace(KERNEL, functions=(scale_cast_kernel,))
    assert fingerprint(called_only) == before, "what is called is found"
    monkeypatch.setattr(scaled, "fn", _halved)
    assert fingerprint(KERNEL) != before
    kernel = Kernel(
        name="tripled",
        functions=(tripled,),
        heuristic=KERNEL.heuristic,
        candidates=KERNEL.candidates,
    )
    before = fingerprint(kernel)
    assert before == fingerprint(kernel)
    monkeypatch.setitem(globals(), "FACTOR", tl.constexpr(4))
    assert fingerprint(kernel) != before
