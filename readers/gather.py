"""Reads the fields of many samples at once: near ones in one read, all into one buffer.

Stands between the row formats and the store.  Invariant: every byte of a field is read
once, and what a field's row says lies where its column says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from iopipe.errors import DataError
from iopipe.protocols import ByteRange, Column, Int64Array, Ragged, ReadRequest, Store
from iopipe.readers.spans import RowSpans
from iopipe.storage.coalesce import join_ranges

_MAX_FIELD_GAP_BYTES = 1 << 16
"""Fields of one sample further apart than this are read apart; bytes between nearer ones
are read along, which costs less than another read."""
_MAX_SAMPLE_GAP_BYTES = 1 << 12
_MIN_READ_BYTES = 1 << 16
"""Shorter stretches are joined with their neighbours, at the price of a copy."""
_MIN_RUN_ROWS = 8
"""Rows that follow each other are copied together from here on."""
_CUT = (
    "its bytes could not all be read; the shard became shorter since it was indexed: open the "
    "dataset again"
)
_MAX_JOINED_BYTES = 1 << 19
"""Samples are joined up to here; longer reads gain nothing and are harder to share out."""


@dataclass(frozen=True, slots=True)
class Gathering:
    """The reads that bring the fields of some samples."""

    shards: Int64Array
    """[m]: of each read."""
    offsets: Int64Array
    """[m], bytes"""
    lengths: Int64Array
    """[m], bytes"""
    reads: Int64Array
    """[n, w]: which read holds the field of this row and column."""

    def ranges(self, paths: Sequence[str]) -> list[ByteRange]:
        parts = zip(self.shards.tolist(), self.offsets.tolist(), self.lengths.tolist(), strict=True)
        return [ByteRange(paths[shard], offset, length) for shard, offset, length in parts]


def plan_gathering(shards: Int64Array, offsets: Int64Array, lengths: Int64Array) -> Gathering:
    """Which reads to make for samples in `shards` [n] with fields at `offsets` [n, w] of
    `lengths` [n, w]; in the order of the shards and of the offsets in them."""
    rows, starts, ends, reads = _by_sample(offsets, lengths)
    found = join_ranges(
        shards[rows],
        starts,
        ends,
        max_gap_bytes=_MAX_SAMPLE_GAP_BYTES,
        max_joined_bytes=_MAX_JOINED_BYTES,
    )
    return Gathering(found.files, found.starts, found.lengths, found.which[reads])


def _by_sample(
    offsets: Int64Array, lengths: Int64Array
) -> tuple[Int64Array, Int64Array, Int64Array, Int64Array]:
    """One span for a sample whose fields are near each other, else one a field: (row, start,
    end) of each, and for every row and column the number of its span."""
    ends = offsets + lengths
    spans = ends.max(axis=1, initial=0) - offsets.min(axis=1, initial=1 << 62)
    is_near = spans <= lengths.sum(axis=1) + _MAX_FIELD_GAP_BYTES
    if is_near.all():
        rows = np.arange(len(offsets))
        reads = np.broadcast_to(rows[:, None], offsets.shape)
        return rows, offsets.min(axis=1, initial=1 << 62), ends.max(axis=1, initial=0), reads
    width = offsets.shape[1]
    counts = np.where(is_near, 1, width)
    reads = (np.cumsum(counts) - counts)[:, None] + np.where(is_near[:, None], 0, np.arange(width))
    rows = np.repeat(np.arange(len(offsets)), counts)
    starts, last = np.full(len(rows), 1 << 62, np.int64), np.zeros(len(rows), np.int64)
    np.minimum.at(starts, reads, offsets)
    np.maximum.at(last, reads, ends)
    return rows, starts, last, reads


def gather(
    store: Store,
    paths: Sequence[str],
    shards: Int64Array,
    offsets: Int64Array,
    lengths: Int64Array,
) -> list[Column]:
    """Read the fields of n samples: one column for each of the w columns of `offsets` and
    `lengths` [n, w], all of them views of one uint8 buffer, or of the shards where the store
    shows them.

    A shard that ends before a field does is a `DataError` with the row of the first such
    sample.
    """
    if len(shards) and store.view(paths[int(shards[0])]) is not None:
        return _shown(store, paths, shards, offsets, lengths)
    plan = plan_gathering(shards, offsets, lengths)
    buffer = np.empty(int(plan.lengths.sum()), np.uint8)
    places = np.cumsum(plan.lengths) - plan.lengths
    view = buffer.data
    requests = [
        ReadRequest(part.path, part.offset, view[place : place + part.length])
        for part, place in zip(plan.ranges(paths), places.tolist(), strict=True)
    ]
    counts = np.array(store.submit(requests).wait(), np.int64)
    if (counts != plan.lengths).any():
        _raise_short(
            offsets + lengths > (plan.offsets + counts)[plan.reads], paths, shards, offsets
        )
    rows = places[plan.reads] + offsets - plan.offsets[plan.reads]
    return [Ragged(buffer, rows[:, n], lengths[:, n]) for n in range(offsets.shape[1])]


def _shown(
    store: Store,
    paths: Sequence[str],
    shards: Int64Array,
    offsets: Int64Array,
    lengths: Int64Array,
) -> list[Column]:
    """Views of the shards themselves: one ragged column where all rows are of one shard."""
    views = {shard: store.view(paths[shard]) or memoryview(b"") for shard in set(shards.tolist())}
    ends = offsets + lengths
    sizes = np.array([len(views[shard]) for shard in shards.tolist()], np.int64)
    if (ends > sizes[:, None]).any():
        _raise_short(ends > sizes[:, None], paths, shards, offsets)
    width = range(offsets.shape[1])
    if len(views) == 1:
        values = np.frombuffer(next(iter(views.values())), np.uint8)
        return [Ragged(values, offsets[:, n], lengths[:, n]) for n in width]
    shown = [views[shard] for shard in shards.tolist()]
    return [
        [
            view[a:b]
            for view, a, b in zip(shown, offsets[:, n].tolist(), ends[:, n].tolist(), strict=True)
        ]
        for n in width
    ]


def fill_rows(store: Store, paths: Sequence[str], spans: RowSpans, rows: npt.NDArray[Any]) -> None:
    """Read the rows of one column into `rows` [n, ...], contiguous: taken from the shards where
    the store shows them, else one read a stretch.

    A shard that ends before a row does is a `DataError` with the first such row.
    """
    if len(rows) and store.view(paths[int(spans.shards[0])]) is not None:
        named = set(spans.shards.tolist())
        shown = [store.view(path) if n in named else b"" for n, path in enumerate(paths)]
        take_rows([view or b"" for view in shown], paths, spans, rows)
        return
    if len(rows) * spans.row_bytes < _MIN_READ_BYTES * len(spans.counts):
        _fill_joined(store, paths, spans, rows)
        return
    target = rows.reshape(len(rows), -1).view(np.uint8)
    runs = spans.runs()
    requests = [
        ReadRequest(paths[shard], offset, target[first : first + count].reshape(-1).data)
        for shard, offset, first, count in runs
    ]
    counts = store.submit(requests).wait()
    for (shard, offset, first, count), num_read in zip(runs, counts, strict=True):
        if num_read < count * spans.row_bytes:
            row = first + num_read // spans.row_bytes
            raise _short(row, paths[shard], offset + (row - first) * spans.row_bytes)


def _fill_joined(
    store: Store, paths: Sequence[str], spans: RowSpans, rows: npt.NDArray[Any]
) -> None:
    """Short rows: near ones in one read, and then a copy."""
    shards, offsets = spans.by_row()
    width = spans.row_bytes
    if not len(rows) or not width:
        return
    (column,) = gather(store, paths, shards, offsets[:, None], np.full((len(rows), 1), width))
    assert isinstance(column, Ragged)  # the store shows nothing
    places = np.lib.stride_tricks.sliding_window_view(column.values, width)
    rows.reshape(len(rows), -1).view(np.uint8)[...] = places[column.offsets]


def take_rows(
    shown: Sequence[Any], paths: Sequence[str], spans: RowSpans, rows: npt.NDArray[Any]
) -> None:
    """Copy the rows of one column out of the shards' bytes, in memory, into `rows`.

    Rows that lie at multiples of their width from one place on, as they do in a file of
    windows or in a record batch, are copied in one call, without the interpreter lock.
    """
    width = spans.row_bytes
    if not len(rows) or not width:
        return
    sizes = np.array([len(memoryview(content)) for content in shown], np.int64)
    ends = spans.offsets + spans.counts * width
    if (ends > sizes[spans.shards]).any():
        shards, offsets = spans.by_row()
        row = int(np.argmax(offsets + width > sizes[shards]))
        raise _short(row, paths[int(shards[row])], int(offsets[row]))
    if len(spans.counts) * _MIN_RUN_ROWS <= len(rows):
        for shard, offset, first, count in spans.runs():
            content = np.frombuffer(shown[shard], np.uint8, count * width, offset)
            rows[first : first + count].reshape(-1).view(np.uint8)[...] = content
        return
    shards, offsets = spans.by_row()
    tables = shards * width + offsets % width
    for table in np.unique(tables).tolist():
        content = np.frombuffer(shown[table // width], np.uint8)[table % width :]
        cells = content[: len(content) // width * width].view(spans.dtype)
        cells = cells.reshape(-1, *spans.row_shape)
        here = tables == table
        if here.all():
            np.take(cells, offsets // width, axis=0, out=rows, mode="clip")
        else:
            rows[here] = cells[offsets[here] // width]


def _short(row: int, path: str, offset: int) -> DataError:
    return DataError(_CUT, row=row, shard=path, offset=offset)


def _raise_short(
    is_short: npt.NDArray[np.bool_],
    paths: Sequence[str],
    shards: Int64Array,
    offsets: Int64Array,
) -> None:
    """`is_short` [n, w]: the fields that end after their shard does."""
    row = int(np.argmax(is_short.any(axis=1)))
    raise _short(row, paths[int(shards[row])], int(offsets[row].min()))
