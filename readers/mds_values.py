"""The encodings of MosaicML Streaming's columns, those that are plain data.

Stands under the MDS format.  Invariant: no encoding here can run code; `pkl` and whatever
is not known is refused by name before anything is read.

Source: mosaicml/streaming, streaming/base/format/mds/encodings.py.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from iopipe.errors import DataError

Decode = Callable[[memoryview], Any]

_SCALARS = (
    *("uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"),
    *("float16", "float32", "float64"),
)
_VIEWS = ("bytes", "jpeg", "png")
_TEXTS: dict[str, Callable[[str], Any]] = {"str": str, "str_int": int, "str_float": float}
_CODES = {
    8: "uint8",
    9: "int8",
    16: "uint16",
    17: "int16",
    18: "float16",
    32: "uint32",
    33: "int32",
    34: "float32",
    64: "uint64",
    65: "int64",
    66: "float64",
}
_UNSAFE = ("pkl",)
_TYPES: dict[str, pa.DataType] = {
    "str": pa.string(),
    "str_int": pa.int64(),
    "str_float": pa.float64(),
}
_MAX_NUMBERS = (1 << 31) - 1
"""Of a fixed shape: what Arrow's fixed-size lists hold."""


def value_decoder(encoding: str, shard: str) -> tuple[Decode, pa.DataType, int | None]:
    """Decoder, Arrow type and size in bytes (None: it varies) of an encoding."""
    if encoding in _VIEWS:
        return _same, pa.binary(), None
    if encoding in _TEXTS:
        return partial(_text, parse=_TEXTS[encoding]), _TYPES[encoding], None
    if encoding == "json":
        return partial(_text, parse=json.loads), pa.string(), None
    name = "int64" if encoding == "int" else encoding
    if name in _SCALARS:
        dtype: np.dtype[Any] = np.dtype(name)
        return partial(_scalar, dtype=dtype), pa.from_numpy_dtype(dtype), dtype.itemsize
    if encoding == "ndarray" or encoding.startswith("ndarray:"):
        return _array_decoder(encoding, shard)
    if encoding in _UNSAFE:
        raise DataError(
            f"its encoding {encoding!r} can run code when it is read; write the dataset again "
            "with another one",
            shard=shard,
        )
    raise DataError(
        f"its encoding {encoding!r} is not read; use bytes, str or ndarray", shard=shard
    )


def _array_decoder(encoding: str, shard: str) -> tuple[Decode, pa.DataType, int | None]:
    """`ndarray[:dtype[:shape]]`; what is not given stands before the values."""
    name, _, rest = encoding.removeprefix("ndarray").removeprefix(":").partition(":")
    try:
        shape = tuple(int(size) for size in rest.split(",")) if rest else None
    except ValueError:
        shape = (0,)
    is_sane = shape is None or (min(shape) >= 1 and math.prod(shape) <= _MAX_NUMBERS)
    if (name and name not in _SCALARS) or not is_sane:
        raise DataError(f"its encoding {encoding!r} is malformed", shard=shard)
    size = None
    kind: pa.DataType = pa.null() if not name else pa.from_numpy_dtype(np.dtype(name))
    if name and shape:
        size = math.prod(shape) * np.dtype(name).itemsize
        kind = pa.fixed_shape_tensor(kind, shape)
    elif name:
        kind = pa.list_(kind)
    return partial(_array, name=name or None, shape=shape), kind, size


def _same(raw: memoryview) -> memoryview:
    return raw


def _text(raw: memoryview, *, parse: Callable[[str], Any]) -> Any:
    return parse(str(raw, "utf-8"))


def _scalar(raw: memoryview, *, dtype: np.dtype[Any]) -> Any:
    return np.frombuffer(raw, dtype)[0]


def _array(raw: memoryview, *, name: str | None, shape: tuple[int, ...] | None) -> npt.NDArray[Any]:
    place = 0
    if name is None:
        if raw[0] not in _CODES:
            raise ValueError(f"{raw[0]} is no type of an array")
        name, place = _CODES[raw[0]], 1
    if shape is None:
        num_dimensions, kind = raw[place] >> 2, np.dtype(f"<u{1 << (raw[place] & 3)}")
        place += 1
        sizes = np.frombuffer(raw, kind, num_dimensions, place)
        shape = tuple(sizes.tolist())
        place += sizes.nbytes
    return np.frombuffer(raw[place:], name).reshape(shape)
