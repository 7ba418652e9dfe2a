"""A parcel of several batches, taken apart.

Stands between the engine and the run, in the consumer's thread.  Invariant: part k of a parcel
is what batch k would have been alone, also where samples were left out; its tensors are views.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from iopipe.engine import Parcel
from iopipe.errors import DataError
from iopipe.plan import Task
from iopipe.protocols import Event, Int64Array

NOTHING_LEFT = "every sample of a batch was left out; the dataset is damaged there"


@dataclass(frozen=True, slots=True)
class Part:
    """One batch as it is handed over."""

    task: Task
    first: int
    last: int
    """This rank's samples first .. last - 1, as the task counts them."""
    columns: dict[str, Any]
    ids: Int64Array
    planned: Int64Array
    ready: Event | None
    handed_over: Callable[[], None]


def parts_of(parcel: Parcel, batch_size: int | None) -> Iterator[Part]:
    """The batches of a parcel, in order."""
    task, batch = parcel.task, parcel.batch
    first, last = task.first - task.row, task.first + len(task.ids)
    if batch_size is None or last - first <= batch_size:
        yield _part(parcel, first, last, batch.columns, batch.ids, parcel.planned)
        return
    row = 0
    for start in range(first, last, batch_size):
        end = min(start + batch_size, last)
        planned = parcel.planned[start - first : end - first]
        num_rows = end - start
        if batch.num_samples < last - first:
            num_rows = _num_there(planned, batch.ids[row:])
            if not num_rows:
                raise DataError(NOTHING_LEFT)
        stop = row + num_rows
        columns = {name: value[row:stop] for name, value in batch.columns.items()}
        yield _part(parcel, start, end, columns, batch.ids[row:stop], planned)
        row = stop


def _part(
    parcel: Parcel,
    first: int,
    last: int,
    columns: dict[str, Any],
    ids: Int64Array,
    planned: Int64Array,
) -> Part:
    batch = parcel.batch
    return Part(parcel.task, first, last, columns, ids, planned, batch.ready, batch.handed_over)


def _num_there(planned: Int64Array, ids: Int64Array) -> int:
    """How many of `ids`, from the first on, are of `planned`: the ids are those of several
    batches in a row less some that were left out."""
    num = 0
    for sample in planned.tolist():
        num += num < len(ids) and int(ids[num]) == sample
    return num
