"""Samples of several chunks become one batch, each tensor written once.

Stands between decode and transfer.  Invariant: all tensors of a batch lie in one flat
payload, aligned, so that one copy moves them all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from iopipe.errors import DataError, PipelineError
from iopipe.loaders.arena import Place, aligned
from iopipe.loaders.padding import RowsToPad, padded
from iopipe.parts import NOTHING_LEFT
from iopipe.protocols import (
    Column,
    Int64Array,
    NumberKeys,
    Ragged,
    Samples,
    joined_keys,
)


@dataclass(frozen=True, slots=True)
class Packed:
    """What a batch is made of before it has memory: pieces of arrays, and lists."""

    pieces: Mapping[str, Sequence[npt.NDArray[Any]]]
    """By column; the pieces follow each other along the first dimension."""
    lists: Mapping[str, Sequence[Any]]
    layout: Mapping[str, Place]
    num_bytes: int

    def write(self, payload: npt.NDArray[np.uint8]) -> None:
        """Copy every piece to its place, the only copy between decode and device; what was
        decoded in its place stays."""
        for name, place in self.layout.items():
            target = place.view(payload)
            row = 0
            for piece in self.pieces[name]:
                rows = target[row : row + len(piece)]
                if not _is_same(rows, piece):  # may overlap where rows were left out
                    rows[...] = piece
                row += len(piece)


def pack(chunks: Sequence[Samples], places: Mapping[str, Place] | None = None) -> Packed:
    """Sort the columns of a batch into arrays and lists and lay the arrays out, those that
    have a place in the batch's arena there."""
    filled = [chunk for chunk in chunks if len(chunk)]
    if not filled:
        raise DataError(NOTHING_LEFT)
    columns = {name: [as_column(chunk, name) for chunk in filled] for name in filled[0].columns}
    keys = joined_keys([chunk.keys for chunk in filled])
    valid = [chunk.valid for chunk in filled if chunk.valid is not None]
    mask = {"__valid__": valid} if valid else {}
    return _laid_out({"__key__": [keys], **mask, **_filled_up(columns)}, places or {})


def _filled_up(columns: Mapping[str, Sequence[Any]]) -> dict[str, Sequence[Any]]:
    made: dict[str, Sequence[Any]] = {}
    for name, parts in columns.items():
        if isinstance(parts[0], RowsToPad):
            made |= {column: [array] for column, array in padded(name, parts).items()}
        else:
            made[name] = parts
    return made


def delivered_ids(chunks: Sequence[Samples]) -> Int64Array:
    """Which samples a batch delivers; those that only fill it up do not count."""
    parts = [chunk.ids if chunk.valid is None else chunk.ids[chunk.valid] for chunk in chunks]
    return np.concatenate(parts)


def pack_columns(columns: Mapping[str, Any]) -> Packed:
    """The same for a batch that a user's function made: tensors, arrays and lists."""
    return _laid_out({name: [_as_array(value)] for name, value in columns.items()}, {})


def views(payload: torch.Tensor, layout: Mapping[str, Place]) -> dict[str, torch.Tensor]:
    """The tensors of a batch, all sharing the storage of `payload`."""
    return {
        name: payload[place.offset : place.offset + place.num_bytes]
        .view(_torch_dtype(place.dtype))
        .view(place.shape)
        for name, place in layout.items()
    }


def _laid_out(columns: Mapping[str, Sequence[Any]], places: Mapping[str, Place]) -> Packed:
    pieces: dict[str, Sequence[npt.NDArray[Any]]] = {}
    lists: dict[str, Sequence[Any]] = {}
    layout: dict[str, Place] = {}
    end = max((place.offset + place.num_bytes for place in places.values()), default=0)
    for name, parts in columns.items():
        if not all(isinstance(part, np.ndarray) for part in parts):
            is_whole = len(parts) == 1 and isinstance(parts[0], NumberKeys)
            lists[name] = parts[0] if is_whole else [item for part in parts for item in part]
            continue
        pieces[name] = parts
        shape, dtype = _common(name, parts)
        begun = places.get(name)
        if begun is not None and (begun.shape[1:], begun.dtype) == (shape[1:], dtype):
            layout[name] = Place(begun.offset, shape, dtype)
            continue
        layout[name] = Place(aligned(end), shape, dtype)
        end = layout[name].offset + layout[name].num_bytes
    return Packed(pieces, lists, layout, end)


def _common(name: str, parts: Sequence[npt.NDArray[Any]]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    # As within a chunk (`_stacked`): how samples are cut must not show in a batch.
    dtypes = {part.dtype for part in parts}
    common = np.result_type(*dtypes) if len(dtypes) > 1 else parts[0].dtype
    kinds = {(part.shape[1:], common) for part in parts}
    if len(kinds) > 1:
        raise PipelineError(_uneven(name, [shape for shape, _ in kinds]))
    ((shape, dtype),) = kinds
    return (sum(len(part) for part in parts), *shape), dtype


def as_column(samples: Samples, name: str) -> npt.NDArray[Any] | list[Any]:
    """A column as the collation takes it: one array where its rows make one, else a list."""
    if name not in samples.columns:
        raise PipelineError(f"column {name!r} is missing in some samples of a batch")
    column: Column = samples.columns[name]
    if isinstance(column, np.ndarray | RowsToPad):
        return column
    if isinstance(column, Ragged):
        return [bytes(row) for row in column]
    return _stacked(name, column)


def _stacked(name: str, rows: list[Any]) -> npt.NDArray[Any] | list[Any]:
    """Rows of numbers or of equal arrays as one array; anything else stays a list."""
    rows = [row.numpy() if isinstance(row, torch.Tensor) else row for row in rows]
    if all(isinstance(row, np.ndarray | np.generic) for row in rows):
        shapes = {row.shape for row in rows}
        if len(shapes) > 1:
            raise PipelineError(_uneven(name, sorted(shapes)))
        return np.stack(rows)
    if all(isinstance(row, int | float) for row in rows):
        return np.asarray(rows)
    return [bytes(row) if isinstance(row, memoryview) else row for row in rows]


def _as_array(value: Any) -> npt.NDArray[Any] | Sequence[Any]:
    if isinstance(value, torch.Tensor):
        value = value.detach().contiguous().numpy()
    return value if isinstance(value, np.ndarray | NumberKeys) else list(value)


def _uneven(name: str, shapes: Sequence[tuple[int, ...]]) -> str:
    return (
        f"column {name!r} has rows of shapes {shapes[0]} and {shapes[1]}, which make no "
        "tensor; give decode(size=...) or map them to one shape before batch"
    )


def _is_same(rows: npt.NDArray[Any], piece: npt.NDArray[Any]) -> bool:
    return rows.ctypes.data == piece.ctypes.data and rows.strides == piece.strides


def _torch_dtype(dtype: np.dtype[Any]) -> torch.dtype:
    return torch.from_numpy(np.empty(0, dtype)).dtype
