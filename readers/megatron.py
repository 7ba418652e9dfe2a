"""Megatron's index of a token file: where each document lies.

Stands beside `readers.tokens`.  Invariant: an index that points outside of its file, or
contradicts itself, is a `DataError` before anything is read through it.

Source: Megatron-LM, megatron/core/datasets/indexed_dataset.py: magic, version 1, a code for
the type, the number of sequences, the number of document bounds, then int32 lengths in
tokens, int64 offsets in bytes, and int64 bounds of the documents in sequences.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from iopipe.errors import DataError
from iopipe.protocols import Int64Array, Store

_MAGIC = b"MMIDIDX\x00\x00"
_HEADER = struct.Struct("<9sQBQQ")
_VERSION = 1
_DTYPES = {
    1: np.uint8,
    2: np.int8,
    3: np.int16,
    4: np.int32,
    5: np.int64,
    6: np.float64,
    7: np.float32,
    8: np.uint16,
}
_CODES = {np.dtype(kind): code for code, kind in _DTYPES.items()}


def read_index(
    store: Store, path: str, num_bytes: int
) -> tuple[np.dtype[np.generic], Int64Array, Int64Array]:
    """Type, and offset and length in tokens of each document, of the `num_bytes` of a token
    file whose index is at `path`."""
    size = store.size(path)
    content = bytearray(size)
    if store.read_into(path, 0, memoryview(content)) < size or size < _HEADER.size:
        raise DataError("its index is cut off", shard=path)
    magic, version, code, num_sequences, num_bounds = _HEADER.unpack_from(content)
    if (magic, version) != (_MAGIC, _VERSION) or code not in _DTYPES:
        raise DataError(
            f"it is no index of version {_VERSION} as Megatron writes it (version {version}, "
            f"type {code})",
            shard=path,
        )
    if size != _HEADER.size + 12 * num_sequences + 8 * num_bounds:
        raise DataError(
            f"its {size} bytes do not fit {num_sequences} sequences and {num_bounds} bounds",
            shard=path,
        )
    dtype: np.dtype[np.generic] = np.dtype(_DTYPES[code])
    place = _HEADER.size
    lengths = np.frombuffer(content, "<i4", num_sequences, place).astype(np.int64)
    pointers = np.frombuffer(content, "<i8", num_sequences, place + 4 * num_sequences)
    bounds = np.frombuffer(content, "<i8", num_bounds, place + 12 * num_sequences)
    _check(path, dtype, lengths, pointers, bounds, num_bytes)
    ends = np.concatenate([[0], np.cumsum(lengths)])
    starts = pointers // dtype.itemsize
    firsts, lasts = bounds[:-1], bounds[1:]
    sizes = ends[lasts] - ends[firsts]
    padded = np.append(starts, 0)
    return dtype, np.where(sizes > 0, padded[firsts], 0).astype(np.int64), sizes.astype(np.int64)


def _check(
    path: str,
    dtype: np.dtype[np.generic],
    lengths: Int64Array,
    pointers: Int64Array,
    bounds: Int64Array,
    num_bytes: int,
) -> None:
    """Sequences lie in the file, one after the other, and documents are made of them."""
    sizes = lengths * dtype.itemsize
    if (lengths < 0).any() or (pointers < 0).any() or (pointers % dtype.itemsize).any():
        raise DataError("it has negative or broken lengths or offsets", shard=path)
    if len(lengths) and ((pointers > num_bytes).any() or (pointers > num_bytes - sizes).any()):
        raise DataError("it points outside of its token file", shard=path)
    if (pointers[1:] != (pointers + sizes)[:-1]).any():
        raise DataError("its sequences do not lie one after the other", shard=path)
    is_whole = len(bounds) > 0 and bounds[0] == 0 and bounds[-1] == len(lengths)
    if not is_whole or (np.diff(bounds) < 0).any():
        raise DataError("its documents are not made of its sequences in order", shard=path)


def pack_index(dtype: npt.DTypeLike, lengths: Sequence[int]) -> bytes:
    """The index of documents of so many tokens, each one sequence."""
    kind = np.dtype(dtype)
    sizes = np.array(lengths, np.int64)
    pointers = (np.cumsum(sizes) - sizes) * kind.itemsize
    header = _HEADER.pack(_MAGIC, _VERSION, _CODES[kind], len(sizes), len(sizes) + 1)
    bounds = np.arange(len(sizes) + 1, dtype="<i8")
    parts = (sizes.astype("<i4"), pointers.astype("<i8"), bounds)
    return header + b"".join(part.tobytes() for part in parts)


def has_code(dtype: npt.DTypeLike) -> bool:
    """Whether Megatron's index has a code for this type."""
    return np.dtype(dtype) in _CODES
