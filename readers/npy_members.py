"""`.npy` members of tar shards, as rows of numbers that lie in the shard.

Stands under the WebDataset reader.  Invariant: only members whose header says numbers of one
type and shape, and whose bytes are as many as that takes, become rows.

Source of the header: numpy.lib.format, which parses it.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.lib import format as npy

from iopipe.errors import DataError, PipelineError
from iopipe.protocols import Int64Array, ReadRequest, Store
from iopipe.readers.spans import RowSpans

_HEAD_BYTES = 256
"""numpy's own headers take 128, but for structured types."""
_Layout = tuple[np.dtype[Any], tuple[int, ...], int]


def npy_spans(
    name: str,
    store: Store,
    paths: Sequence[str],
    shards: Int64Array,
    offsets: Int64Array,
    lengths: Int64Array,
) -> RowSpans:
    """Where the arrays of one column lie, behind their headers, which are read.

    `DataError` with its row for a member that is no such array, `PipelineError` where two differ
    in type or shape.
    """
    heads = _heads(store, paths, shards, offsets, lengths)
    known: dict[bytes, _Layout] = {}
    first: _Layout | None = None
    starts = np.empty(len(heads), np.int64)
    for row, head in enumerate(heads):
        dtype, shape, begin = known.setdefault(head, _layout(head, row))
        first = first or (dtype, shape, begin)
        if (dtype, shape) != first[:2]:
            raise PipelineError(
                f"column {name!r} has arrays of {first[0]} {list(first[1])} and of {dtype} "
                f"{list(shape)}, which make no tensor: use path='slots' and map them to one shape"
            )
        if begin + int(np.prod(shape, dtype=np.int64)) * dtype.itemsize != lengths[row]:
            raise DataError(f"its array has not the bytes that {list(shape)} takes", row=row)
        starts[row] = begin
    dtype, shape, _ = first or (np.dtype(np.uint8), (), 0)
    return RowSpans(
        name=name,
        dtype=dtype,
        row_shape=shape,
        shards=shards,
        offsets=offsets + starts,
        firsts=np.arange(len(heads)),
        counts=np.ones(len(heads), np.int64),
    )


def _heads(
    store: Store, paths: Sequence[str], shards: Int64Array, offsets: Int64Array, lengths: Int64Array
) -> list[bytes]:
    """The headers, each as long as it says it is."""
    content = memoryview(bytearray(len(offsets) * _HEAD_BYTES))
    buffers = [
        content[row * _HEAD_BYTES :][: min(_HEAD_BYTES, length)]
        for row, length in enumerate(lengths.tolist())
    ]
    places = zip(shards.tolist(), offsets.tolist(), buffers, strict=True)
    store.submit(
        [ReadRequest(paths[shard], start, buffer) for shard, start, buffer in places]
    ).wait()
    # Version 1: magic, two bytes of version, then the header's length in two bytes.
    return [bytes(head[: 10 + int.from_bytes(head[8:10], "little")]) for head in buffers]


def _layout(head: bytes, row: int) -> _Layout:
    file = io.BytesIO(head)
    try:
        if npy.read_magic(file) != (1, 0):
            raise ValueError("its header is not of version 1")
        shape, is_fortran, dtype = npy.read_array_header_1_0(file)
    except ValueError as error:
        raise DataError(f"it is no .npy array that can be read so: {error}", row=row) from error
    if is_fortran or dtype.kind not in "uif" or not dtype.isnative:
        raise DataError(
            f"its array is {dtype}{' in Fortran order' if is_fortran else ''}: only numbers of "
            "this machine's byte order, row by row, can be read into a device's memory",
            row=row,
        )
    return dtype, tuple(shape), file.tell()
