"""The launches behind `columns`: plainly packed codes, or codes found by rank or run.

Stands between `columns`, which decides what to launch, and `column_codes`, which reads bits.
Invariant: both kernels write the same bits for the same rows.
"""

from __future__ import annotations

import triton
import triton.language as tl

from iopipe.kernels.column_codes import hybrid_at, octets, run_from, run_of, values_at, words_of


@triton.jit  # type: ignore[untyped-decorator]
def _written(entry, exists, mean, inv_std, FLOAT: tl.constexpr, TYPE: tl.constexpr):  # type: ignore[no-untyped-def]
    """Entries as they are written; what does not exist is NaN, or -1 for ids."""
    if FLOAT:
        # A difference, then a product: no compiler option can fuse them into other bits.
        value = (entry.to(tl.float32) - mean) * inv_std
        return tl.where(exists, value, float("nan")).to(TYPE)
    else:
        return tl.where(exists, entry.to(tl.int64), -1).to(TYPE)


@triton.jit  # type: ignore[untyped-decorator]
def _table(  # type: ignore[no-untyped-def]
    dictionary, num_entries, mean, inv_std, SIZE: tl.constexpr, FLOAT: tl.constexpr,
    TYPE: tl.constexpr,
):  # fmt: skip
    """The dictionary as it is written, for a lookup in shared memory; beyond it: NaN or -1."""
    entry = tl.arange(0, SIZE)
    exists = entry < num_entries
    table = tl.load(dictionary + entry, mask=exists, other=0)
    return _written(table, exists, mean, inv_std, FLOAT, TYPE)


@triton.jit  # type: ignore[untyped-decorator]
def _filled(fill, fill_id, mean, inv_std, FLOAT: tl.constexpr, TYPE: tl.constexpr):  # type: ignore[no-untyped-def]
    """What is written for a null."""
    if FLOAT:
        return ((tl.zeros([], tl.float32) + fill - mean) * inv_std).to(TYPE)
    else:
        return (tl.zeros([], tl.int64) + fill_id).to(TYPE)


@triton.jit  # type: ignore[untyped-decorator]
def _looked_up(  # type: ignore[no-untyped-def]
    code, coded, table, dictionary, num_entries, mean, inv_std,
    SHARED: tl.constexpr, LOOKUP: tl.constexpr, WIDTH: tl.constexpr,
    FLOAT: tl.constexpr, TYPE: tl.constexpr,
):  # fmt: skip
    """What is written for each code, in one of three ways; NaN or -1 where not `coded`."""
    if SHARED > 0:
        size: tl.constexpr = code.shape[0] * (code.shape[1] if len(code.shape) > 1 else 1)
        index = tl.reshape((code & (SHARED - 1)).to(tl.int32), [size])
        value = tl.reshape(tl.gather(table, index, 0), code.shape)
        known = coded
        if (1 << WIDTH) > SHARED:
            known = known & (code < SHARED)
        if FLOAT:
            absent = tl.full([], float("nan"), tl.float32).to(TYPE)
        else:
            absent = tl.full([], -1, tl.int32).to(TYPE)
        return tl.where(known, value, absent)
    elif LOOKUP:
        known = coded & (code.to(tl.int64) < num_entries)
        entry = tl.load(dictionary + code.to(tl.int64), mask=known, other=0)
        return _written(entry, known, mean, inv_std, FLOAT, TYPE)
    else:
        return _written(code, coded, mean, inv_std, FLOAT, TYPE)


@triton.jit
def _octet(v):  # type: ignore[no-untyped-def]
    """[n, 8] of eight [n]: whoever had one element of each now has them in a row."""
    halves = tl.join(tl.join(v[0], v[4]), tl.join(v[2], v[6]))
    others = tl.join(tl.join(v[1], v[5]), tl.join(v[3], v[7]))
    joined = tl.join(halves, others)
    return tl.reshape(joined, [v[0].shape[0], 8])


@triton.jit(  # type: ignore[untyped-decorator]
    do_not_specialize=["code_bit", "valid_bit", "num_rows", "share", "num_entries", "fill_id"]
)
def decode_packed(  # type: ignore[no-untyped-def]
    codes, code_bit, validity, valid_bit, dictionary, num_entries, out, num_rows, share,
    mean, inv_std, fill, fill_id,
    GROUPS: tl.constexpr, SHARED: tl.constexpr, WIDTH: tl.constexpr, VALIDITY: tl.constexpr,
    LOOKUP: tl.constexpr, FLOAT: tl.constexpr,
):  # fmt: skip
    """Rows whose codes and validity bits lie one behind the other: eight rows a thread."""
    TYPE: tl.constexpr = out.dtype.element_ty
    TILE: tl.constexpr = 8 * GROUPS
    code_words, code_lead = words_of(codes)
    valid_words, valid_lead = words_of(validity)
    filled = _filled(fill, fill_id, mean, inv_std, FLOAT, TYPE)
    table = filled
    if SHARED > 0:
        table = _table(dictionary, num_entries, mean, inv_std, SHARED, FLOAT, TYPE)
    row = tl.arange(0, GROUPS)[:, None] * 8 + tl.arange(0, 8)[None, :]
    first = tl.program_id(0).to(tl.int64) * share
    for tile in range(first, tl.minimum(first + share, tl.cdiv(num_rows, TILE))):
        start = tile * TILE
        left = num_rows - start
        code = octets(code_words, code_lead + code_bit + start * WIDTH, left, GROUPS, WIDTH)
        code = _octet(code)
        value = _looked_up(
            code, code == code, table, dictionary, num_entries, mean, inv_std,
            SHARED, LOOKUP, WIDTH, FLOAT, TYPE,
        )  # fmt: skip
        if VALIDITY:
            bits = octets(valid_words, valid_lead + valid_bit + start, left, GROUPS, 1)
            value = tl.where(_octet(bits) != 0, value, filled)
        if left >= TILE:  # without a mask, stores are as wide as they can be
            tl.store(out + start + row, value)
        else:
            tl.store(out + start + row, value, mask=row < left)


@triton.jit  # type: ignore[untyped-decorator]
def _valid(  # type: ignore[no-untyped-def]
    words, first_bit, runs, num_runs, run, start, num_rows, TILE: tl.constexpr,
    VALIDITY: tl.constexpr,
):  # fmt: skip
    """int32 [TILE]: 1 for each row from `start` on that exists and is not null; and the run
    of the last one, for the next tile to go on from."""
    row = tl.arange(0, TILE)
    exists = row < num_rows - start
    valid = exists.to(tl.int32)
    if VALIDITY == 1:
        bit = first_bit + start
        valid = values_at(words + (bit >> 5), (bit & 31).to(tl.int32) + row, exists, 1)
        valid = valid.to(tl.int32)
    elif VALIDITY == 2:
        known = tl.load(runs + num_runs)  # rows that the levels tell of
        exists = row < tl.minimum(num_rows, known) - start
        first = run
        run = run_from(runs, num_runs, first, start + TILE - 1)
        level = hybrid_at(words, first_bit, runs, num_runs, first, run, start + row, exists, 1)
        valid = tl.where(exists, level.to(tl.int32), 0)
    return valid, run


@triton.jit(do_not_specialize=["valid_bit", "num_valid_runs", "num_rows", "share"])  # type: ignore[untyped-decorator]
def count_valid(  # type: ignore[no-untyped-def]
    validity, valid_bit, valid_runs, num_valid_runs, counts, num_rows, share,
    TILE: tl.constexpr, VALIDITY: tl.constexpr,
):  # fmt: skip
    """counts[p] = the valid rows of stretch p."""
    words, lead = words_of(validity)
    count = tl.zeros([], tl.int64)
    first = tl.program_id(0).to(tl.int64) * share
    run = tl.zeros([], tl.int64)
    if VALIDITY == 2:
        run = run_of(valid_runs, num_valid_runs, first * TILE)
    for tile in range(first, tl.minimum(first + share, tl.cdiv(num_rows, TILE))):
        valid, run = _valid(
            words, lead + valid_bit, valid_runs, num_valid_runs, run, tile * TILE, num_rows,
            TILE, VALIDITY,
        )  # fmt: skip
        count += tl.sum(valid)
    tl.store(counts + tl.program_id(0), count)


@triton.jit(  # type: ignore[untyped-decorator]
    do_not_specialize=[
        "code_bit", "num_codes", "num_code_runs", "valid_bit", "num_valid_runs",
        "num_rows", "share", "num_entries", "fill_id",
    ]
)  # fmt: skip
def decode_ranked(  # type: ignore[no-untyped-def]
    codes, code_bit, num_codes, code_runs, num_code_runs,
    validity, valid_bit, valid_runs, num_valid_runs,
    counts, dictionary, num_entries, out, num_rows, share, mean, inv_std, fill, fill_id,
    TILE: tl.constexpr, SHARED: tl.constexpr, WIDTH: tl.constexpr, HYBRID: tl.constexpr,
    VALIDITY: tl.constexpr, COMPACT: tl.constexpr, LOOKUP: tl.constexpr, FLOAT: tl.constexpr,
    STRETCHES: tl.constexpr,
):  # fmt: skip
    """Rows whose code is found by rank among the valid rows, through a run table, or both."""
    TYPE: tl.constexpr = out.dtype.element_ty
    code_words, code_lead = words_of(codes)
    valid_words, valid_lead = words_of(validity)
    if HYBRID:
        num_codes = tl.minimum(num_codes, tl.load(code_runs + num_code_runs))
    filled = _filled(fill, fill_id, mean, inv_std, FLOAT, TYPE)
    table = filled
    if SHARED > 0:
        table = _table(dictionary, num_entries, mean, inv_std, SHARED, FLOAT, TYPE)
    rank = tl.zeros([], tl.int64)
    if COMPACT:
        stretch = tl.arange(0, STRETCHES)
        rank += tl.sum(tl.load(counts + stretch, mask=stretch < tl.program_id(0), other=0))
    row = tl.arange(0, TILE)
    first = tl.program_id(0).to(tl.int64) * share
    valid_run, code_run = tl.zeros([], tl.int64), tl.zeros([], tl.int64)
    if not COMPACT:
        rank = first * TILE
    if VALIDITY == 2:
        valid_run = run_of(valid_runs, num_valid_runs, first * TILE)
    if HYBRID:
        code_run = run_of(code_runs, num_code_runs, rank)
    for tile in range(first, tl.minimum(first + share, tl.cdiv(num_rows, TILE))):
        start = tile * TILE
        left = num_rows - start
        valid, valid_run = _valid(
            valid_words, valid_lead + valid_bit, valid_runs, num_valid_runs, valid_run, start,
            num_rows, TILE, VALIDITY,
        )  # fmt: skip
        # Codes are numbered from the tile's first on, which is code number `rank`.
        if COMPACT:
            number = tl.cumsum(valid, 0) - valid
            total = tl.sum(valid)
        else:
            number = row
            total = TILE
        coded = (valid != 0) & (number < tl.minimum(num_codes - rank, TILE).to(tl.int32))
        if HYBRID:
            first_run = code_run
            code_run = run_from(code_runs, num_code_runs, first_run, rank + total - 1)
            code = hybrid_at(
                code_words, code_lead, code_runs, num_code_runs, first_run, code_run,
                rank + number, coded, WIDTH,
            )  # fmt: skip
        else:
            bit = code_lead + code_bit + rank * WIDTH
            bits = (bit & 31).to(tl.int32) + number * WIDTH
            code = values_at(code_words + (bit >> 5), bits, coded, WIDTH)
        rank += total
        value = _looked_up(
            code, coded, table, dictionary, num_entries, mean, inv_std,
            SHARED, LOOKUP, WIDTH, FLOAT, TYPE,
        )  # fmt: skip
        value = tl.where(valid != 0, value, filled)
        if left >= TILE:
            tl.store(out + start + row, value)
        else:
            tl.store(out + start + row, value, mask=row < left)


FUNCTIONS = (
    _written, _table, _filled, _looked_up, _octet, decode_packed, _valid, count_valid,
    decode_ranked,
)  # fmt: skip
