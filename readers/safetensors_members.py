"""`.safetensors` members of tar shards, as rows of numbers that lie in the shard.

Stands under the WebDataset reader, beside `npy_members`.  Invariant: only members whose header
names the same tensors as the first one's, inside of their bytes, become rows.

Source: the safetensors format: eight bytes with the header's length, little-endian, a JSON object
from name to dtype, shape and data_offsets, which count from the header's end; `__metadata__` is
text.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from iopipe.errors import DataError, PipelineError
from iopipe.protocols import Int64Array, ReadRequest, Store
from iopipe.readers.spans import RowSpans

_MAX_HEADER_BYTES = 1 << 20
_DTYPES = {
    **{f"F{8 * size}": f"f{size}" for size in (2, 4, 8)},
    **{f"I{8 * size}": f"i{size}" for size in (1, 2, 4, 8)},
    **{f"U{8 * size}": f"u{size}" for size in (1, 2, 4, 8)},
}
_Tensor = tuple[np.dtype[Any], tuple[int, ...], int]
"""dtype, shape, and where it begins in its member."""


def safetensors_spans(
    name: str,
    store: Store,
    paths: Sequence[str],
    shards: Int64Array,
    offsets: Int64Array,
    lengths: Int64Array,
) -> list[RowSpans]:
    """One column a tensor, named `name/tensor`, in the order of their names.

    `DataError` with its row for a damaged member, `PipelineError` where two have not the same
    tensors.
    """
    heads = _heads(store, [paths[shard] for shard in shards.tolist()], offsets, lengths)
    known: dict[bytes, dict[str, _Tensor]] = {}
    rows: list[dict[str, _Tensor]] = []
    for row, head in enumerate(heads):
        if head not in known:
            known[head] = _tensors(head, int(lengths[row]), row)
        rows.append(known[head])
        if _kinds(rows[0]) != _kinds(rows[row]):
            raise PipelineError(
                f"column {name!r} has members with tensors {_kinds(rows[0])} and with "
                f"{_kinds(rows[row])}, which make no batch"
            )
    return [
        RowSpans(
            name=f"{name}/{tensor}",
            dtype=dtype,
            row_shape=shape,
            shards=shards,
            offsets=offsets + np.array([tensors[tensor][2] for tensors in rows], np.int64),
            firsts=np.arange(len(rows)),
            counts=np.ones(len(rows), np.int64),
        )
        for tensor, (dtype, shape, _) in sorted(rows[0].items() if rows else ())
    ]


def _heads(
    store: Store, paths: Sequence[str], offsets: Int64Array, lengths: Int64Array
) -> list[bytes]:
    """The headers, JSON as it stands there, in two rounds of reads."""
    starts = offsets.tolist()
    sizes = _read(store, paths, starts, [min(8, length) for length in lengths.tolist()])
    wanted = [int.from_bytes(size, "little") for size in sizes]
    for row, (num_bytes, length) in enumerate(zip(wanted, lengths.tolist(), strict=True)):
        if length < 8 or num_bytes > min(length - 8, _MAX_HEADER_BYTES):
            raise DataError(f"its safetensors header has {num_bytes} bytes of {length}", row=row)
    return _read(store, paths, [start + 8 for start in starts], wanted)


def _read(
    store: Store, paths: Sequence[str], starts: Sequence[int], sizes: Sequence[int]
) -> list[bytes]:
    buffers = [memoryview(bytearray(size)) for size in sizes]
    places = zip(paths, starts, buffers, strict=True)
    store.submit([ReadRequest(path, start, buffer) for path, start, buffer in places]).wait()
    return [bytes(buffer) for buffer in buffers]


def _tensors(head: bytes, member_bytes: int, row: int) -> dict[str, _Tensor]:
    begin = 8 + len(head)
    try:
        named = json.loads(head)
        found = {
            str(name): _tensor(about, begin, member_bytes)
            for name, about in named.items()
            if name != "__metadata__"
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"its safetensors header is damaged: {error}", row=row) from error
    return found


def _tensor(about: dict[str, Any], begin: int, member_bytes: int) -> _Tensor:
    if about["dtype"] not in _DTYPES:
        raise ValueError(f"dtype {about['dtype']!r} is not one of {', '.join(_DTYPES)}")
    dtype = np.dtype(_DTYPES[about["dtype"]]).newbyteorder("<")
    shape = tuple(int(side) for side in about["shape"])
    first, last = (int(place) for place in about["data_offsets"])
    if min((0, *shape)) < 0 or first < 0 or last - first != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"data_offsets {first} to {last} do not fit {dtype} {list(shape)}")
    if begin + last > member_bytes:
        raise ValueError(f"data_offsets {first} to {last} lie outside of the member")
    return dtype, shape, begin + first


def _kinds(tensors: dict[str, _Tensor]) -> dict[str, str]:
    return {name: f"{dtype} {list(shape)}" for name, (dtype, shape, _) in sorted(tensors.items())}
