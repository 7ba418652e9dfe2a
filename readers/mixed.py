"""Several sources as one: ids of the first, then those of the second, and so on.

Stands on other readers.  Invariant: a sample is the same as its own source gives it, and the
column `__source__` says which source that was.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from iopipe.errors import DataError, PipelineError
from iopipe.protocols import (
    ByteRange,
    Column,
    Int64Array,
    Location,
    Samples,
    Source,
    Store,
)
from iopipe.readers.rows import Rows

SOURCE_COLUMN = "__source__"


class MixedSource:
    """Sources by name, all with the same columns.

    Columns come as arrays where all sources give arrays of one type and shape, else as lists
    of rows.  `__source__` is int64 [n]: the place of the sample's source among `sources`.
    """

    def __init__(self, sources: Mapping[str, Source]) -> None:
        if not sources:
            raise PipelineError("there are no sources to mix")
        self.names = tuple(sources)
        self.sources = tuple(sources.values())
        first = self.sources[0]
        for name, source in sources.items():
            if set(source.columns) != set(first.columns):
                raise PipelineError(
                    f"source {name!r} has columns {sorted(source.columns)}, {self.names[0]!r} has "
                    f"{sorted(first.columns)}; read the same columns= of each"
                )
        self.columns = (*first.columns, SOURCE_COLUMN)
        self.schema: pa.Schema = first.schema.append(pa.field(SOURCE_COLUMN, pa.int64()))
        self.shards = tuple(shard for source in self.sources for shard in source.shards)
        self.faults: Sequence[DataError] = [
            fault for source in self.sources for fault in source.faults
        ]
        self._rows = Rows([len(source) for source in self.sources])
        digest = hashlib.blake2b(digest_size=16)
        for name, source in sources.items():
            digest.update(f"{name}\0{source.digest}\0".encode())
        self.digest = digest.hexdigest()

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def lengths(self) -> Int64Array | None:
        """int64 [n]: tokens of each sample; None where one of the sources does not know."""
        found = [getattr(source, "lengths", None) for source in self.sources]
        known = [part for part in found if part is not None]
        return np.concatenate(known) if len(known) == len(found) else None

    def locate(self, sample_id: int) -> Location:
        parts, own = self._rows.place([sample_id])
        return self.sources[int(parts[0])].locate(int(own[0]))

    def ranges(self, ids: Sequence[int] | Int64Array) -> list[ByteRange]:
        parts, own = self._rows.place(ids)
        return [
            part
            for number in np.unique(parts)
            for part in self.sources[number].ranges(own[parts == number])
        ]

    def samples(self, ids: Sequence[int] | Int64Array, store: Store) -> Samples:
        wanted = np.asarray(ids, np.int64)
        parts, own = self._rows.place(wanted)
        places = [np.nonzero(parts == number)[0] for number in range(len(self.sources))]
        found = [
            _read(source, own[rows], rows, store)
            for source, rows in zip(self.sources, places, strict=True)
            if len(rows)
        ]
        rows = [rows for rows in places if len(rows)]
        keys = np.empty(len(wanted), object)
        for here, samples in zip(rows, found, strict=True):
            keys[here] = samples.keys
        columns = {
            name: _joined([samples.columns[name] for samples in found], rows, len(wanted))
            for name in self.columns[:-1]
        }
        return Samples(ids=wanted, keys=keys.tolist(), columns={**columns, SOURCE_COLUMN: parts})


def _read(source: Source, own: Int64Array, rows: Int64Array, store: Store) -> Samples:
    try:
        return source.samples(own, store)
    except DataError as error:
        if error.row is not None:
            error.row = int(rows[error.row])
        raise


def _joined(columns: Sequence[Column], rows: Sequence[Int64Array], num_rows: int) -> Column:
    """One column whose rows `rows[i]` are those of `columns[i]`."""
    if len(columns) == 1:
        return columns[0]
    arrays = [column for column in columns if isinstance(column, np.ndarray)]
    kinds = {(column.shape[1:], column.dtype) for column in arrays}
    if len(arrays) == len(columns) and len(kinds) == 1:
        joined = np.empty((num_rows, *arrays[0].shape[1:]), arrays[0].dtype)
        for here, array in zip(rows, arrays, strict=True):
            joined[here] = array
        return joined
    values: list[Any] = [None] * num_rows
    for here, column in zip(rows, columns, strict=True):
        for row, value in zip(here.tolist(), column, strict=True):
            values[row] = value
    return values
