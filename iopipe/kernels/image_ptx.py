"""Instructions of NVIDIA GPUs that Triton has no name for.

Stands under `image_rows`, behind the block PTX of a configuration.  Invariant: whoever uses
them has a plain way to the same bits, since the interpreter and other GPUs know none of them.
PTX ISA 8.0, sections 9.7.1.24 (dp2a), 9.7.8.7 (prmt) and 9.7.8.16 (prefetch).
"""

# Triton code has no types that mypy could check.
# mypy: disable-error-code="no-untyped-def,untyped-decorator,no-redef"

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def dot_low(weights, values, onto):
    """onto + the two 16-bit weights times bytes 0 and 1 of `values`."""
    return tl.inline_asm_elementwise(
        "dp2a.lo.u32.u32 $0, $1, $2, $3;", "=r,r,r,r", [weights, values, onto], tl.int32, True, 1
    )


@triton.jit
def dot_high(weights, values, onto):
    """onto + the two 16-bit weights times bytes 2 and 3 of `values`."""
    return tl.inline_asm_elementwise(
        "dp2a.hi.u32.u32 $0, $1, $2, $3;", "=r,r,r,r", [weights, values, onto], tl.int32, True, 1
    )


@triton.jit
def permuted(low, high, SELECTOR: tl.constexpr):
    """Four of eight bytes; the selector's hexadecimal digits name them, the last one byte 0."""
    return tl.inline_asm_elementwise(
        "prmt.b32 $0, $1, $2, $3;", "=r,r,r,r", [low, high, SELECTOR], tl.uint32, True, 1
    )


@triton.jit
def fetch(addresses):
    """Ask for the cache lines that hold these addresses, from memory into the L2 cache."""
    tl.inline_asm_elementwise(
        "prefetch.global.L2 [$1]; mov.u32 $0, 0;", "=r,l", [addresses], tl.int32, False, 1
    )


@triton.jit
def four_bytes(words, FIRST: tl.constexpr, C: tl.constexpr, COUNT: tl.constexpr):
    """The bytes FIRST, FIRST + C, ... of consecutive words in one; only the first COUNT count."""
    WORD: tl.constexpr = FIRST // 4
    BYTE: tl.constexpr = FIRST % 4
    if C == 1:
        found = words[WORD]
    elif COUNT == 1:
        found = words[WORD] >> (8 * BYTE)
    elif C == 2:
        # Two of the bytes lie in this word, and all that count may lie in it.
        NEXT: tl.constexpr = WORD if COUNT == 2 else WORD + 1
        found = permuted(words[WORD], words[NEXT], 0x6420 + 0x1111 * BYTE)
    elif C == 3:
        NEXT: tl.constexpr = WORD if BYTE == 0 and COUNT == 2 else WORD + 1
        FIRST_TWO: tl.constexpr = 0x0630 if BYTE == 0 else 0x0741 if BYTE == 1 else 0x0052
        found = permuted(words[WORD], words[NEXT], FIRST_TWO)
        if COUNT > 3 or (COUNT == 3 and BYTE == 2):
            LAST: tl.constexpr = 0x5210 if BYTE == 0 else 0x6210 if BYTE == 1 else 0x7410
            found = permuted(found, words[WORD + 2], LAST)
    else:
        found = permuted(words[WORD], words[WORD + 1], 0x40 + 0x11 * BYTE)
        if COUNT == 3:
            found = permuted(found, words[WORD + 2], 0x410 + 0x100 * BYTE)
        elif COUNT > 3:
            others = permuted(words[WORD + 2], words[WORD + 3], 0x40 + 0x11 * BYTE)
            found = permuted(found, others, 0x5410)
    return found


FUNCTIONS = (dot_low, dot_high, permuted, fetch, four_bytes)
