"""Which bytes of a shard belong to which sample: built once, kept beside the shard.

Stands between the tar walk and the source.  Invariant: an index is used only for the very
shard it was built from (age, size and two header blocks agree) and never points outside.
"""

from __future__ import annotations

import hashlib
import logging

import numpy as np
import pyarrow as pa

from iopipe.errors import DataError
from iopipe.protocols import Int64Array, Store
from iopipe.readers.plain_arrays import int64_array
from iopipe.readers.shard_index import Fault, IndexBuilder, ShardIndex, split_name
from iopipe.readers.sidecar import UNFIT, find_sidecars, seal, store_sidecar, unseal
from iopipe.readers.tar import BLOCK_BYTES
from iopipe.readers.tar_scan import scan

_logger = logging.getLogger(__name__)

FORMAT_VERSION = 2


def build_index(store: Store, path: str) -> ShardIndex:
    """Find the members of a tar shard and group them."""
    from iopipe.readers.grouping import group  # brings pyarrow.compute: 40 ms

    members = scan(store, path)
    index = group(members)
    if index is not None:
        return index
    builder = IndexBuilder()
    for member in members:
        split = split_name(member.name)
        if split is not None:
            builder.add(*split, member)
    if members.damage is not None:
        builder.end(members.damage)
    try:
        return builder.build()
    except DataError as error:
        error.shard = path
        raise


# ---- the sidecar ---------------------------------------------------------------------


def load_index(store: Store, path: str) -> ShardIndex:
    """The index of a shard: from a sidecar that fits, else built and stored."""
    num_bytes = store.size(path)
    for name, content in find_sidecars(store, path):
        try:
            return _parsed(content, store, path, num_bytes)
        except UNFIT as error:
            _logger.info("index %s is built again: %s", name, error)
    index = build_index(store, path)
    store_sidecar(store, path, pack_index(index, num_bytes, _marks(index, store, path)))
    return index


def pack_index(index: ShardIndex, num_bytes: int, marks: bytes) -> bytes:
    """The content of a shard's sidecar.

    `num_bytes` is the size of the shard, `marks` the first header block and the one before
    the last member's data: they tie the index to its shard.
    """
    columns = {
        "key": index.keys,
        **{f"offset:{n}": int64_array(index.offsets[:, i]) for i, n in enumerate(index.columns)},
        **{f"length:{n}": int64_array(index.lengths[:, i]) for i, n in enumerate(index.columns)},
    }
    table = pa.Table.from_arrays(list(columns.values()), names=list(columns))
    header = {
        "version": FORMAT_VERSION,
        "num_bytes": num_bytes,
        "marks": hashlib.blake2b(marks, digest_size=16).hexdigest(),
        "columns": index.columns,
        "faults": [[fault.reason, fault.offset, fault.key] for fault in index.faults],
    }
    return seal(table, header)


def _parsed(content: bytes, store: Store, path: str, num_bytes: int) -> ShardIndex:
    table, header = unseal(content)
    if (header["version"], header["num_bytes"]) != (FORMAT_VERSION, num_bytes):
        raise DataError("it was made from another version of the shard")
    columns = tuple(str(name) for name in header["columns"])
    index = ShardIndex(
        columns,
        table["key"].combine_chunks(),
        _matrix(table, [f"offset:{name}" for name in columns]),
        _matrix(table, [f"length:{name}" for name in columns]),
        tuple(Fault(str(r), int(o), str(k)) for r, o, k in header["faults"]),
    )
    _check(index, num_bytes)
    marks = hashlib.blake2b(_marks(index, store, path), digest_size=16).hexdigest()
    if marks != header["marks"]:
        raise DataError("it was made from another shard of the same size")
    return index


def _marks(index: ShardIndex, store: Store, path: str) -> bytes:
    """The first header block, and the one before the data of the last member."""
    marks = bytearray(2 * BLOCK_BYTES)
    last = int(index.offsets.max(initial=BLOCK_BYTES)) - BLOCK_BYTES
    for place, offset in ((0, 0), (BLOCK_BYTES, max(0, last))):
        store.read_into(path, offset, memoryview(marks)[place : place + BLOCK_BYTES])
    return bytes(marks)


def _matrix(table: pa.Table, names: list[str]) -> Int64Array:
    matrix = np.empty((table.num_rows, len(names)), np.int64)
    for number, name in enumerate(names):
        matrix[:, number] = table[name].to_numpy()
    return matrix


def _check(index: ShardIndex, num_bytes: int) -> None:
    """A sidecar is as untrusted as the shard."""
    if index.keys.type != pa.string() or index.keys.null_count:
        raise DataError("its keys are no strings")
    absent = index.lengths == -1
    outside = (index.offsets < 0) | (index.lengths < 1) | (index.lengths > num_bytes)
    outside |= index.offsets > num_bytes - index.lengths
    if (outside & ~absent).any():
        raise DataError("it points outside of the shard")
