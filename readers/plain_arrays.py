"""Arrow arrays of strings and whole numbers, made from their buffers.

Stands under what lies beside shards.  Invariant: they are what `pa.array` makes of the same
values, without what it does first: import pandas, where there is one, which takes 0.3 s.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from iopipe.errors import DataError
from iopipe.protocols import Int64Array


def string_array(values: Sequence[str]) -> pa.Array[Any]:
    """string [n]"""
    encoded = [value.encode() for value in values]
    offsets = np.zeros(len(encoded) + 1, np.int64)
    np.cumsum([len(value) for value in encoded], out=offsets[1:])
    if offsets[-1] > np.iinfo(np.int32).max:
        raise DataError(f"the keys of a shard take {offsets[-1]} bytes; write smaller shards")
    buffers = [
        None,
        pa.py_buffer(offsets.astype(np.int32).tobytes()),
        pa.py_buffer(b"".join(encoded)),
    ]
    return pa.Array.from_buffers(pa.string(), len(encoded), buffers)


def int64_array(values: Int64Array) -> pa.Array[Any]:
    """int64 [n]"""
    return pa.Array.from_buffers(pa.int64(), len(values), [None, pa.py_buffer(values.tobytes())])
