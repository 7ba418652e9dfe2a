"""Fields that are no images: numbers, text, JSON, arrays.

Stands under the decode stage.  Invariant: nothing here can run code that came with the
data; pickled fields stay bytes.

Source of the names: WebDataset's basic decoders.
"""

from __future__ import annotations

import io
import json
import tokenize
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from iopipe.errors import DataError
from iopipe.loaders.decode.limits import check_npy
from iopipe.protocols import Column

_INTEGERS = {"cls", "cls2", "class", "count", "index", "inx", "id"}
_TEXTS = {"txt", "text", "transcript"}
# The last one is numpy's: a header that is no Python.
_DAMAGE = (ValueError, EOFError, RecursionError, tokenize.TokenError)


def field_decoder(name: str) -> Callable[[Column], Column] | None:
    """What decodes a column of this name; None where it stays as it is."""
    extension = name.rsplit(".", 1)[-1]
    if extension in _INTEGERS:
        return lambda column: np.array(_each(column, _integer), np.int64)
    if extension in _TEXTS:
        return lambda column: _each(column, lambda raw: str(raw, "utf-8"))
    if extension == "json":
        return lambda column: _each(column, json.loads)
    if extension == "npy":
        return _arrays
    return None


def _each(column: Column, parse: Callable[[bytes], Any]) -> list[Any]:
    values = []
    for row, raw in enumerate(column):
        try:
            values.append(parse(bytes(raw)))
        except _DAMAGE as error:
            shown = bytes(raw)[:40]
            raise DataError(f"the field {shown!r} cannot be decoded: {error}", row=row) from error
    return values


def _integer(raw: bytes) -> int:
    value = int(raw)
    if not -(1 << 63) <= value < 1 << 63:
        raise ValueError("it does not fit 64 bits")
    return value


def _array(raw: bytes) -> npt.NDArray[Any]:
    check_npy(raw)
    # Not np.load, which would also open zip files and answer with something else.
    array: npt.NDArray[Any] = np.lib.format.read_array(io.BytesIO(raw), allow_pickle=False)
    return array


def _arrays(column: Column) -> Column:
    arrays = _each(column, _array)
    if len({(array.shape, array.dtype) for array in arrays}) == 1:
        return np.stack(arrays)
    return arrays
