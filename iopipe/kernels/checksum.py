"""CRC-32C of many ranges of a device buffer, for bytes that the host never saw.

Stands after a transfer that went straight to the device.  Invariant: the checksum of a range
depends on its bytes alone, not on how it was cut into pieces.

How.  The message is a polynomial over GF(2) and its checksum the remainder by P.  Cut into
rows of 2**k bits it is a polynomial in y = x**(2**k) whose coefficients are rows, and since
squaring is linear, P(y) = P(x)**(2**k): P, read as a polynomial in y, is a multiple of P.
So rows are folded as if each were one bit of a bitwise CRC: the row that leaves at the top
of a shift register of 32 rows is added to the 17 places that P names.  That is XOR of whole
registers, nine instructions a word, without tables or carry-less products.  The 32 rows that
remain cost the usual 32 steps a bit, once a piece.  `combine` then shifts every piece to its
place and adds up.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch.library import triton_op, wrap_triton

from iopipe.kernels.border import (
    check_budget,
    check_place,
    check_tensor,
    chosen,
    num_programs,
    to_words,
)
from iopipe.kernels.crc_field import ORDER, TAPS, TIMES_X, shift_columns, square_columns
from iopipe.kernels.tuning import Config, Kernel, Problem

_BLOCKS = ("LANES", "PARTS")
_COMBINE_LANES = 128
_MAX_PARTS = 256


@triton.jit  # type: ignore[untyped-decorator]
def _mapped(value, COLUMNS: tl.constexpr):  # type: ignore[no-untyped-def]
    """The product of a constant matrix and the bits of each value."""
    result = value & 0
    for bit in tl.static_range(32):
        # An arithmetic shift right makes all ones of the bit, or zero.
        result ^= ((value << (31 - bit)) >> 31) & COLUMNS[bit]
    return result


@triton.jit
def _product(left, right):  # type: ignore[no-untyped-def]
    """The product of two polynomials modulo P."""
    result = (left ^ right) & 0
    for power in tl.static_range(32):
        result ^= ((right << power) >> 31) & left
        left = ((left >> 1) & 0x7FFFFFFF) ^ (((left << 31) >> 31) & TIMES_X)
    return result


@triton.jit
def _xor(left, right):  # type: ignore[no-untyped-def]
    return left ^ right


@triton.jit  # type: ignore[untyped-decorator]
def _extent(data, offset, length, piece, pieces, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """Where a range and its piece lie, in words of 4 bytes from the aligned start:
    address of that start, bytes before the range, words, and the piece's first and last."""
    address = data.to(tl.int64) + offset
    lead = address & 3
    words = tl.where(length > 0, (lead + length + 3) // 4, 0)
    blocks = (words + BLOCK - 1) // BLOCK
    share = (blocks + pieces - 1) // pieces
    first = tl.minimum(piece * share, blocks)
    last = tl.minimum(first + share, blocks)
    return address - lead, lead, words, first * BLOCK, last * BLOCK


@triton.jit(do_not_specialize=["size", "num_ranges", "pieces"])  # type: ignore[untyped-decorator]
def _remainders(  # type: ignore[no-untyped-def]
    data, size, offsets, lengths, partial, num_ranges, pieces, LANES: tl.constexpr
):
    """partial[r, p] = piece p of range r modulo P, as if nothing followed it."""
    BLOCK: tl.constexpr = 32 * LANES
    ROW: tl.constexpr = shift_columns(32 * LANES)
    lane = tl.arange(0, LANES)
    for work in range(tl.program_id(0), num_ranges * pieces, tl.num_programs(0)):
        offset = tl.load(offsets + work // pieces)
        length = tl.load(lengths + work // pieces)
        # A range outside the buffer is not read; `_combine` answers -1 for it.
        inside = (offset >= 0) & (length >= 0) & (offset <= size - length)
        length = tl.where(inside, length, 0)
        offset = tl.where(inside, offset, 0)
        start, lead, words, first, last = _extent(
            data, offset, length, work % pieces, pieces, BLOCK
        )
        source = start.to(tl.pointer_type(tl.int32))

        # Words at both ends hold bytes that are not the range's: those are XORed away, at
        # the start as the row comes in, at the end in the row of the register that holds it.
        at_start = lane == tl.where((first == 0) & (words > 0), 0, -1)
        strange = tl.load(source + lane, mask=at_start, other=0)
        strange &= ((1 << (8 * lead)) - 1).to(tl.int32)
        end = words - 1
        at_end = lane == tl.where((end >= first) & (end < last), end % LANES, -1)
        num_bits = 32 - 8 * (4 * words - lead - length)
        beyond = tl.load(source + end + lane * 0, mask=at_end, other=0)
        beyond &= (-1 << num_bits).to(tl.int32)
        end_row = (end % BLOCK) // LANES

        zero = tl.zeros([LANES], tl.int32)
        register = (zero,)
        for _ in tl.static_range(31):
            register += (zero,)  # type: ignore[assignment]
        for position in range(first, last, BLOCK):
            left = tl.minimum(words - position, BLOCK).to(tl.int32)
            for row in tl.static_range(32):
                index = row * LANES + lane
                # Read once: the first to leave the caches.
                incoming = tl.load(
                    source + position + index,
                    mask=index < left,
                    other=0,
                    eviction_policy="evict_first",
                )
                if row == 0:
                    incoming ^= strange
                    strange = zero
                top = register[31]  # type: ignore[misc]
                folded = (incoming ^ top,)
                for i in tl.static_range(1, 32):
                    if (TAPS >> i) & 1:
                        folded += (register[i - 1] ^ top,)  # type: ignore[assignment]
                    else:
                        folded += (register[i - 1],)  # type: ignore[assignment]
                register = folded

        # Row by row down each lane; then lane by lane, in one step for each bit of its number.
        remainder = zero
        for row in range(32):
            remainder = _mapped(remainder, ROW) ^ register[31]  # type: ignore[misc]
            remainder ^= tl.where(row == end_row, beyond, 0)
            shifted = (zero,)
            for i in tl.static_range(31):
                shifted += (register[i],)  # type: ignore[assignment]
            register = shifted
        for bit in tl.static_range(0, 16):
            if (1 << bit) < LANES:
                moved = _mapped(remainder, shift_columns(32 << bit))
                remainder = tl.where((lane >> bit) & 1 == 0, moved, remainder)
        tl.store(partial + work, tl.reduce(remainder, 0, _xor))


@triton.jit(do_not_specialize=["size", "num_ranges", "pieces"])  # type: ignore[untyped-decorator]
def _combine(  # type: ignore[no-untyped-def]
    data, size, offsets, lengths, partial, out, num_ranges, pieces,
    BLOCK: tl.constexpr, RANGES: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """out[r] = the sum of the pieces of range r, each shifted by the bytes after it."""
    part = tl.arange(0, PARTS)[None, :]
    step = tl.num_programs(0) * RANGES
    for tile in range(tl.program_id(0) * RANGES, num_ranges, step):
        number = tile + tl.arange(0, RANGES)
        here = number < num_ranges
        offset = tl.load(offsets + number, mask=here, other=0)[:, None]
        length = tl.load(lengths + number, mask=here, other=0)[:, None]
        inside = (offset >= 0) & (length >= 0) & (offset <= size - length)
        _, lead, _, _, last = _extent(data, offset, length, part, pieces, BLOCK)
        is_piece = here[:, None] & inside & (part < pieces)
        place = number.to(tl.int64)[:, None] * pieces + part
        value = tl.load(partial + place, mask=is_piece, other=0)
        # A checksum is the remainder of the message times x**32, four bytes.
        shift = lead + length - 4 * last + 4
        # The register starts with ones: a word of ones before the message.
        value = tl.where(part == pieces, -1, value)
        shift = tl.where(part == pieces, length, shift)
        shift = (shift % ORDER + ORDER) % ORDER

        SQUARE: tl.constexpr = square_columns()
        square = tl.full([1, 1], 0x00800000, tl.int32)  # x**8: shifts count bytes
        for bit in range(31):
            moved = _product(value, square + (value & 0))
            value = tl.where((shift >> bit) & 1 == 1, moved, value)
            square = _mapped(square, SQUARE)
        total = (tl.reduce(value, 1, _xor) ^ -1).to(tl.int64) & 0xFFFFFFFF
        inside = tl.sum(inside.to(tl.int32), 1) > 0
        tl.store(out + number, tl.where(inside, total, -1), mask=here)


def _heuristic(problem: Problem) -> Config:
    ranges, size = problem.shape["ranges"], problem.shape["bytes"]
    # Pieces: enough to fill a large GPU twice, but long enough to hide what each costs at its
    # end (as much as reading 40 KB).
    piece = min(max(size // 4096, 32_768), 163_840)
    wanted = min(size // ranges // piece, _MAX_PARTS - 1)
    return _config(lanes=32, parts=2 ** max(1, (wanted + 1).bit_length() - 1))


def _candidates(problem: Problem) -> Sequence[Config]:
    # With 32 lanes all that the heuristic may choose for a problem of the same bucket.
    narrow = [_config(lanes=32, parts=2**power) for power in range(1, 9)]
    wide = [_config(lanes=n, parts=p) for n in (64, 128) for p in (2, 4, 8, 32, 128)]
    return [*narrow, *wide]


def _config(*, lanes: int, parts: int) -> Config:
    return Config(blocks={"LANES": lanes, "PARTS": parts}, num_warps=lanes // 32, num_stages=1)


KERNEL = Kernel(
    name="crc32c",
    functions=(_remainders, _combine, _extent, _mapped, _product, _xor),
    heuristic=_heuristic,
    candidates=_candidates,
)


def crc32c(
    data: torch.Tensor,
    offsets: torch.Tensor,
    lengths: torch.Tensor,
    *,
    out: torch.Tensor | None = None,
    max_programs: int | None = None,
    config: Config | None = None,
) -> torch.Tensor:
    """The CRC-32C (RFC 3720) of each range of `data`: int64 [r], 0 to 2**32 - 1.

    data: uint8 [n], contiguous, on any byte.  offsets, lengths: int64 [r], in bytes, on the
    same device; ranges may overlap, be empty and begin at any byte.  The host does not see
    them, so a range that is not inside `data` cannot raise: its answer is -1, and nothing is
    read for it.  Two launches and 4 bytes of scratch for each piece of a range.

    `max_programs` bounds the programs of a launch.  Raises PipelineError for tensors of
    another dtype, shape or device.
    """
    check_budget(max_programs)
    check_tensor("data", data, like=data, dtypes=(torch.uint8,), shape=(data.numel(),))
    shape = (offsets.numel(),)
    for name, tensor in (("offsets", offsets), ("lengths", lengths)):
        check_tensor(name, tensor, like=data, dtypes=(torch.int64,), shape=shape)
    if out is None:
        out = torch.empty(shape, dtype=torch.int64, device=data.device)
    check_tensor("out", out, like=data, dtypes=(torch.int64,), shape=shape)
    check_place("data", data)
    if offsets.numel():
        _crc32c(data, offsets, lengths, out, to_words(config, _BLOCKS), max_programs)
    return out


def problem_of(data: torch.Tensor, offsets: torch.Tensor) -> Problem:
    """What decides which configuration is fast."""
    shape = {"ranges": offsets.numel(), "bytes": data.numel()}
    return Problem(dtypes=("uint8",), shape=shape)


@triton_op("iopipe::crc32c", mutates_args={"out"})
def _crc32c(
    data: torch.Tensor,
    offsets: torch.Tensor,
    lengths: torch.Tensor,
    out: torch.Tensor,
    config: Sequence[int],
    max_programs: int | None,
) -> None:
    launch = chosen(KERNEL, problem_of(data, offsets), config, _BLOCKS)
    lanes, parts = launch.blocks["LANES"], launch.blocks["PARTS"]
    num_ranges, pieces, ranges = offsets.numel(), parts - 1, max(1, _COMBINE_LANES // parts)
    partial = torch.empty(num_ranges * pieces, dtype=torch.int32, device=data.device)
    where = (data, data.numel(), offsets, lengths, partial)
    wrap_triton(_remainders)[(num_programs(len(partial), max_programs, at_most=2**31 - 1),)](
        *where, num_ranges, pieces,
        LANES=lanes, num_warps=launch.num_warps, num_stages=launch.num_stages,
    )  # fmt: skip
    tiles = triton.cdiv(num_ranges, ranges)
    wrap_triton(_combine)[(num_programs(tiles, max_programs, at_most=2**31 - 1),)](
        *where, out, num_ranges, pieces,
        BLOCK=32 * lanes, RANGES=ranges, PARTS=parts, num_warps=_COMBINE_LANES // 32,
    )  # fmt: skip


@_crc32c.register_fake  # type: ignore[untyped-decorator]
def _(*args: object, **kwargs: object) -> None:
    return None
