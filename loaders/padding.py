"""Rows of different length, filled up to the longest of their batch.

Stands just before the collation.  Invariant: a row's own values come first, and how many they are
is a column of the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from iopipe.errors import PipelineError
from iopipe.protocols import Column, Ragged, Samples


class RowsToPad(list[npt.NDArray[Any]]):
    """Rows that the collation pads with `value`."""

    def __init__(self, rows: Sequence[npt.NDArray[Any]], value: float) -> None:
        super().__init__(rows)
        self.value = value

    def __reduce__(self) -> tuple[Any, ...]:
        return RowsToPad, (list(self), self.value)


def pad_columns(values: Mapping[str, float]) -> Callable[[Samples], Samples]:
    """A stage function that marks columns to be padded, by name and with which value.

    A batch then has [b, longest, ...] of each and `NAME_lengths` int64 [b].
    """
    return partial(_marked, values=dict(values))


def _marked(samples: Samples, *, values: Mapping[str, float]) -> Samples:
    missing = [name for name in values if name not in samples.columns]
    if missing:
        raise PipelineError(
            f"columns {missing} are to be padded, there are {sorted(samples.columns)}"
        )
    marked = {
        name: RowsToPad(_rows(name, samples.columns[name]), value) for name, value in values.items()
    }
    return samples.made({**samples.columns, **marked})


def padded(name: str, parts: Sequence[RowsToPad]) -> dict[str, npt.NDArray[Any]]:
    """The columns of a batch that come of the rows of its chunks."""
    rows = [row for part in parts for row in part]
    kinds = {(row.dtype, row.shape[1:]) for row in rows}
    if len(kinds) != 1:
        raise PipelineError(
            f"column {name!r} has rows of different types or shapes: {sorted(map(str, kinds))}; "
            "only their first dimension may differ"
        )
    ((dtype, shape),) = kinds
    lengths = np.array([len(row) for row in rows], np.int64)
    value = _filler(name, parts[0].value, dtype)
    made = np.full((len(rows), int(lengths.max()), *shape), value, dtype)
    for place, row in enumerate(rows):
        made[place, : len(row)] = row
    return {name: made, f"{name}_lengths": lengths}


def _filler(name: str, value: float, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """The value as `dtype` has it, rounded where it is a fraction; no other one."""
    try:
        with np.errstate(all="ignore"):  # what came of it is looked at
            found = np.full((), value, dtype)
        is_whole = dtype.kind in "fc" or bool(found == value)
    except (OverflowError, ValueError):
        is_whole = False
    if not is_whole:
        raise PipelineError(
            f"column {name!r} is to be padded with {value!r}, which {dtype} does not have: give "
            "another value, or map the column to another type"
        )
    return found


def _rows(name: str, column: Column) -> list[npt.NDArray[Any]]:
    if isinstance(column, Ragged):
        ends = zip(column.offsets.tolist(), column.lengths.tolist(), strict=True)
        return [column.values[start : start + length] for start, length in ends]
    rows = [np.asarray(row) for row in column]
    for row in rows:
        if row.ndim == 0 or row.dtype.kind not in "uifcb":
            raise PipelineError(
                f"column {name!r} holds {row.dtype} of {row.ndim} dimensions; rows of numbers can "
                "be padded"
            )
    return rows
