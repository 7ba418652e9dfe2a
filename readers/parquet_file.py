"""One Parquet file: its footer, and row groups decoded within a limit.

Stands between the pages and the Parquet reader.  Invariant: what a row group decodes to is known
from its pages' headers before anything is unpacked, and is at most the limit; while it is
decoded, pyarrow may take as much again.

Source: Apache Parquet format; decoding is pyarrow's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from iopipe.errors import DataError, StorageError
from iopipe.protocols import Int64Array, Store
from iopipe.readers.damage import of_arrow
from iopipe.readers.parquet_footer import Chunk, RowGroup, read_row_groups
from iopipe.readers.parquet_pages import plan_steps
from iopipe.readers.store_file import StoreFile

if TYPE_CHECKING:
    import pyarrow.parquet as pq

_DAMAGE = (pa.ArrowException, OSError, ValueError, OverflowError)


@dataclass(frozen=True, slots=True)
class ParquetFile:
    path: str
    schema: pa.Schema
    metadata: Any
    """pyarrow.parquet.FileMetaData, for pyarrow's own use."""
    groups: list[RowGroup]

    @property
    def num_rows(self) -> int:
        return sum(group.num_rows for group in self.groups)


def read_footer(path: str, store: Store) -> ParquetFile:
    """`DataError` where it is damaged."""
    groups = read_row_groups(store, path)
    try:
        with _Content(path, store, ()) as content, content.opened(None) as reader:
            return ParquetFile(path, reader.schema_arrow, reader.metadata, groups)
    except (DataError, StorageError):
        raise
    except (*_DAMAGE, MemoryError) as error:
        raise of_arrow(error, path, "it is no valid Parquet file") from error


def read_group(
    file: ParquetFile, group: int, columns: Sequence[str], store: Store, limit: int
) -> pa.RecordBatch:
    """These columns of a row group, which is not validated; a `DataError` where it is damaged or
    could decode to more than `limit` bytes."""
    num_rows = file.groups[group].num_rows
    try:
        table = _decoded(file, group, columns, store, limit)
        batches = table.combine_chunks().to_batches()
    except DataError as error:
        error.shard = file.path
        raise
    except StorageError:
        raise
    except _DAMAGE as error:
        raise of_arrow(error, file.path, f"row group {group} cannot be read") from error
    if len(batches) != 1 or batches[0].num_rows != num_rows:
        raise DataError(f"row group {group} has not the rows it says", shard=file.path)
    return batches[0]


def _decoded(
    file: ParquetFile, group: int, columns: Sequence[str], store: Store, limit: int
) -> pa.Table:
    found = file.groups[group]
    chunks = [chunk for chunk in found.chunks if chunk.column in columns]
    _check(group, sum(chunk.num_unpacked_bytes for chunk in chunks), limit)
    _check(group, sum(chunk.num_bytes for chunk in chunks), limit)
    with _Content(file.path, store, chunks) as content:
        num_bytes, rows_at_once = plan_steps(content.at, chunks, found.num_rows, limit)
        if rows_at_once is None:
            _check(group, num_bytes, limit)
        with content.opened(file.metadata) as reader:
            steps = reader.iter_batches(
                rows_at_once or found.num_rows, row_groups=[group], columns=list(columns)
            )
            return pa.Table.from_batches(list(_up_to(limit, steps, group)))


def _up_to(limit: int, steps: Iterable[pa.RecordBatch], group: int) -> Iterator[pa.RecordBatch]:
    num_bytes = 0
    for batch in steps:
        num_bytes += batch.nbytes
        _check(group, num_bytes, limit)
        yield batch


def _check(group: int, num_bytes: int, limit: int) -> None:
    if num_bytes > limit:
        raise DataError(
            f"row group {group} may decode to {num_bytes} bytes, allowed are {limit}; raise "
            "max_sample_bytes"
        )


def held_rows(file: ParquetFile, path: str, filter: Any) -> Iterator[Int64Array]:
    """The rows of each row group that the filter holds for, as numbers in the file."""
    import pyarrow.compute as pc
    import pyarrow.dataset as ds  # brings pandas, where there is one: 0.3 s

    if not file.groups:
        return
    starts = np.cumsum([0, *(group.num_rows for group in file.groups)])
    dataset: Any = ds.dataset(path, format="parquet")
    for fragment in dataset.get_fragments():
        for part in fragment.split_by_row_group(filter):
            held = part.to_table(columns={"held": filter})["held"]
            rows = np.flatnonzero(pc.fill_null(held, False).to_numpy())
            yield int(starts[part.row_groups[0].id]) + rows


class _Content:
    """The bytes of a file: mapped where it is local, else the column chunks that are wanted, all
    read at once."""

    def __init__(self, path: str, store: Store, chunks: Sequence[Chunk]) -> None:
        local = store.local_path(path)
        self._mapped = None if local is None else pa.memory_map(local)
        self._remote = StoreFile(store, path)
        if self._mapped is None:
            self._remote.hold([(chunk.offset, chunk.num_bytes) for chunk in chunks])

    def __enter__(self) -> _Content:
        return self

    def __exit__(self, *error: object) -> None:
        if self._mapped is not None:
            self._mapped.close()

    def at(self, offset: int, length: int) -> bytes | memoryview:
        """These bytes, fewer only where the file ends."""
        if self._mapped is None:
            return self._remote.at(offset, length)
        self._mapped.seek(offset)
        return memoryview(self._mapped.read_buffer(length)).cast("B")

    def opened(self, metadata: Any) -> pq.ParquetFile:
        import pyarrow.parquet as pq  # 20 ms, which other formats need not wait for

        source: Any = self._mapped
        if source is None:
            source = pa.PythonFile(self._remote, mode="r")
        return pq.ParquetFile(source, metadata=metadata, pre_buffer=False)
