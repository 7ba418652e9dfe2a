"""WebDataset shards: tar archives in which members with one key are one sample.

A reader: bytes of a store become `Samples`.  Invariant: the bytes of a sample are read once,
into one buffer for the whole chunk, and every column is a view of it.

Source of the convention: T. Breuel, the WebDataset format specification.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import numpy as np
import pyarrow as pa

from iopipe.errors import DataError, PipelineError
from iopipe.protocols import (
    ByteRange,
    ErrorPolicy,
    Int64Array,
    Location,
    Samples,
    Source,
    Store,
)
from iopipe.readers.formats import Format, OpenOptions
from iopipe.readers.gather import gather, plan_gathering
from iopipe.readers.index import load_index
from iopipe.readers.npy_members import npy_spans
from iopipe.readers.rows import Rows
from iopipe.readers.safetensors_members import safetensors_spans
from iopipe.readers.shard_index import Fault, ShardIndex
from iopipe.readers.spans import RowSpans
from iopipe.readers.tar import is_header
from iopipe.readers.tar_encoder import TarEncoder

_INDEX_THREADS = 4


class WebDatasetSource:
    """Random access to the samples of tar shards.

    A sample lacks a field, has a field without bytes, shares its key with another one of
    its shard, or is cut off: with `on_error='raise'` the first such sample is raised when
    the source is opened, otherwise it is left out and listed in `faults`.
    """

    def __init__(
        self,
        shards: Sequence[str],
        store: Store,
        *,
        columns: Sequence[str] | None = None,
        on_error: ErrorPolicy = "raise",
    ) -> None:
        self.shards = tuple(shards)
        with ThreadPoolExecutor(_INDEX_THREADS) as pool:
            indexes = list(pool.map(lambda shard: load_index(store, shard), self.shards))
        self.columns = _chosen(indexes, columns)
        self.faults: list[DataError] = []
        parts = [
            self._selected(shard, index) for shard, index in zip(self.shards, indexes, strict=True)
        ]
        if on_error == "raise" and self.faults:
            raise self.faults[0]
        width = len(self.columns)
        self.schema = pa.schema([(name, pa.binary()) for name in self.columns])
        self._rows = Rows([len(keys) for keys, _, _ in parts])
        self._keys = [keys for keys, _, _ in parts]
        self._offsets = np.concatenate([np.empty((0, width), np.int64), *(p[1] for p in parts)])
        self._lengths = np.concatenate([np.empty((0, width), np.int64), *(p[2] for p in parts)])
        self.digest = self._identity()

    def __len__(self) -> int:
        return len(self._rows)

    def locate(self, sample_id: int) -> Location:
        shards, rows = self._rows.place([sample_id])
        shard = int(shards[0])
        offset = int(self._offsets[sample_id].min())
        return Location(self.shards[shard], offset, self._keys[shard][int(rows[0])].as_py())

    def ranges(self, ids: Sequence[int] | Int64Array) -> list[ByteRange]:
        wanted = np.asarray(ids, np.int64)
        shards, _ = self._rows.place(wanted)
        plan = plan_gathering(shards, self._offsets[wanted], self._lengths[wanted])
        return plan.ranges(self.shards)

    def samples(self, ids: Sequence[int] | Int64Array, store: Store) -> Samples:
        wanted = np.asarray(ids, np.int64)
        shards, rows = self._rows.place(wanted)
        fields = gather(store, self.shards, shards, self._offsets[wanted], self._lengths[wanted])
        columns = dict(zip(self.columns, fields, strict=True))
        return Samples(ids=wanted, keys=self._keys_of(shards, rows), columns=columns)

    def keys(self, ids: Int64Array) -> list[str]:
        return self._keys_of(*self._rows.place(ids))

    decodes_spans = True
    """`row_spans` gives what decoded fields are, not their bytes."""

    def row_spans(self, ids: Sequence[int] | Int64Array, store: Store) -> list[RowSpans]:
        """Where the arrays of `.npy` and the tensors of `.safetensors` members lie;
        `PipelineError` for other columns."""
        wanted = np.asarray(ids, np.int64)
        shards, _ = self._rows.place(wanted)
        found: list[RowSpans] = []
        for n, name in enumerate(self.columns):
            extension = name.rpartition(".")[2]
            offsets, lengths = self._offsets[wanted, n], self._lengths[wanted, n]
            if extension == "npy":
                found.append(npy_spans(name, store, self.shards, shards, offsets, lengths))
            elif extension == "safetensors":
                found += safetensors_spans(name, store, self.shards, shards, offsets, lengths)
            else:
                raise PipelineError(
                    f"column {name!r} is no .npy or .safetensors member: choose others with "
                    "columns=, or use path='slots'"
                )
        return found

    def _keys_of(self, shards: Int64Array, rows: Int64Array) -> list[str]:
        if len(set(shards.tolist())) == 1:
            found: list[Any] = self._keys[int(shards[0])].take(rows).to_pylist()
            return found
        pairs = zip(shards.tolist(), rows.tolist(), strict=True)
        return [self._keys[shard][row].as_py() for shard, row in pairs]

    # ---- opening ---------------------------------------------------------------------

    def _selected(
        self, shard: str, index: ShardIndex
    ) -> tuple[pa.Array[Any], Int64Array, Int64Array]:
        """The complete samples of a shard, in the order of the source's columns."""
        self._note(shard, index.faults)
        if not len(index):
            none = np.empty((0, len(self.columns)), np.int64)
            return index.keys, none, none
        places = [index.columns.index(n) if n in index.columns else -1 for n in self.columns]
        lengths = index.lengths[:, places]
        offsets = index.offsets[:, places]
        lengths[:, [place < 0 for place in places]] = -1
        is_absent = lengths < 0
        incomplete = np.flatnonzero(is_absent.any(axis=1)).tolist()
        for row in incomplete:
            name = self.columns[int(np.argmax(is_absent[row]))]
            reason = f"the sample has no member {name!r}"
            offset = int(index.offsets[row][index.lengths[row] >= 0].min())
            self._note(shard, [Fault(reason, offset, index.keys[row].as_py())])
        if not incomplete:
            return index.keys, offsets, lengths
        complete = np.flatnonzero(~is_absent.any(axis=1))
        return index.keys.take(complete), offsets[complete], lengths[complete]

    def _note(self, shard: str, faults: Sequence[Fault]) -> None:
        self.faults += [
            DataError(fault.reason, shard=shard, offset=fault.offset, key=fault.key or None)
            for fault in faults
        ]

    def _identity(self) -> str:
        digest = hashlib.blake2b(digest_size=16)
        for shard, keys in zip(self.shards, self._keys, strict=True):
            digest.update(f"{shard.rsplit('/', 1)[-1]}\0{len(keys)}\0".encode())
            digest.update("\0".join(map(str, keys.to_pylist())).encode())
        return digest.hexdigest()


def _chosen(indexes: Sequence[ShardIndex], columns: Sequence[str] | None) -> tuple[str, ...]:
    """The fields to read: those asked for, or all that occur, in order of appearance."""
    found = tuple(dict.fromkeys(name for index in indexes for name in index.columns))
    if columns is None:
        return found
    unknown = [name for name in columns if name not in found]
    if unknown or not columns:
        raise PipelineError(
            f"fields {unknown} are not in the dataset, which has {', '.join(found)}; "
            "choose among those"
        )
    return cast(tuple[str, ...], tuple(columns))


def _open(shards: Sequence[str], store: Store, options: OpenOptions) -> Source:
    return WebDatasetSource(shards, store, columns=options.columns, on_error=options.on_error)


FORMAT = Format(
    name="webdataset",
    suffixes=(".tar",),
    is_content=lambda head, path: is_header(head),
    open=_open,
    encoder=TarEncoder,
)
