"""Polynomials modulo that of CRC-32C, for kernels that are linear in the bytes.

Stands under `checksum`.  A polynomial of degree < 32 is an integer in the reflected order
of the CRC: bit 31 is x^0, bit 0 is x^31, so that a little-endian word of the message is the
polynomial of its 32 bits as it lies in memory.  Invariant: all of this is arithmetic on
Python integers, done while a kernel is compiled.

Source: Castagnoli, Braeuer and Herrmann, IEEE Trans. Communications 41(6), 1993; RFC 3720,
appendix B.4 (polynomial 0x1edc6f41, reflected).
"""

from __future__ import annotations

import triton
import triton.language as tl

TAPS = tl.constexpr(0x1EDC6F41)
"""The polynomial without x^32, bit i for x^i: which rows the uppermost one is folded into."""
TIMES_X = tl.constexpr(0x82F63B78 - 2**32)
"""The same in reflected order, as int32: what x^31 becomes when multiplied by x."""
ORDER = tl.constexpr(2**31 - 1)
"""x^ORDER is 1: the polynomial is (x + 1) times a primitive one of degree 31."""


@triton.constexpr_function  # type: ignore[untyped-decorator]
def times_x(value: int) -> int:
    """value * x."""
    return (value >> 1) ^ (0x82F63B78 if value & 1 else 0)


@triton.constexpr_function  # type: ignore[untyped-decorator]
def product(left: int, right: int) -> int:
    """left * right."""
    result = 0
    for power in range(32):
        if right >> (31 - power) & 1:
            result ^= left
        left = times_x(left)
    return result


@triton.constexpr_function  # type: ignore[untyped-decorator]
def power_of_x(exponent: int) -> int:
    """x ** exponent; negative exponents are those of the inverse."""
    exponent %= 2**31 - 1
    result, square = 0x80000000, 0x40000000
    while exponent:
        if exponent & 1:
            result = product(result, square)
        square = product(square, square)
        exponent >>= 1
    return result


@triton.constexpr_function  # type: ignore[untyped-decorator]
def as_int32(word: int) -> int:
    """The same 32 bits, read as a signed number."""
    return word - 2**32 if word >> 31 else word


@triton.constexpr_function  # type: ignore[untyped-decorator]
def shift_columns(exponent: int) -> tuple[int, ...]:
    """The matrix of `value -> value * x**exponent`: column b, int32, is what bit b becomes."""
    column = power_of_x(exponent)
    columns: tuple[int, ...] = ()
    for _ in range(32):
        columns = (as_int32(column), *columns)
        column = times_x(column)
    return columns


@triton.constexpr_function  # type: ignore[untyped-decorator]
def square_columns() -> tuple[int, ...]:
    """The matrix of `value -> value * value`; squaring is linear over GF(2)."""
    return tuple([as_int32(power_of_x(2 * (31 - bit))) for bit in range(32)])
