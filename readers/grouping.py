"""Groups the members of an archive into samples, all at once.

Stands between the scan of a tar archive and its index.  Invariant: what it returns is what
`IndexBuilder`, its naive twin, builds member by member; archives that it does not
understand at a glance are left to the twin.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from iopipe.readers.shard_index import MAX_CELLS_A_MEMBER, ShardIndex
from iopipe.readers.tar_scan import Members

_SPLIT = r"(?s)^(?P<key>(?:.*/|)[^.]+)[.](?P<field>[^/]*)$"


def group(members: Members) -> ShardIndex | None:
    """The index of an archive without faults; None where there is anything to look at
    closely: damage, odd names, keys that come twice, members without bytes."""
    names = None if members.damage is not None else _joined(members.names)
    split = None if names is None else _split(names)
    if split is None or not members.lengths.all():
        return None
    keys, fields = split
    starts = np.ones(len(keys), bool)
    starts[1:] = pc.not_equal(keys[1:], keys[:-1])
    found = keys.filter(pa.array(starts))
    encoded = fields.dictionary_encode()
    shape = (len(found), len(encoded.dictionary))
    if shape[0] * shape[1] > MAX_CELLS_A_MEMBER * len(keys) or not _is_unique(found):
        return None
    rows, columns = np.cumsum(starts) - 1, encoded.indices.to_numpy()
    offsets, lengths = np.zeros(shape, np.int64), np.full(shape, -1, np.int64)
    offsets[rows, columns] = members.offsets
    lengths[rows, columns] = members.lengths
    if np.count_nonzero(lengths != -1) != len(keys):  # a sample has two members of a name
        return None
    return ShardIndex(tuple(encoded.dictionary.to_pylist()), found, offsets, lengths)


def _joined(pieces: Sequence[Any]) -> Any | None:
    """All names; None where one is not UTF-8."""
    try:
        arrays = [p if isinstance(p, pa.Array) else pa.array(p, pa.string()) for p in pieces]
        return pa.concat_arrays([pa.array([], pa.string()), *arrays])
    except UnicodeEncodeError:
        return None


def _split(names: Any) -> tuple[Any, Any] | None:
    """Key and field of each name; None where one belongs to no sample, leads out of the
    dataset or is not plain ASCII."""
    is_ascii = pc.all(pc.string_is_ascii(names), min_count=0).as_py()
    if not is_ascii or _any(pc.starts_with(names, "__")):
        return None
    if not _any(pc.match_substring(names, "/")):
        if _any(pc.starts_with(names, ".")) or _any(pc.invert(pc.match_substring(names, "."))):
            return None
        parts = pc.split_pattern(names, ".", max_splits=1)
        return pc.list_element(parts, 0), pc.ascii_lower(pc.list_element(parts, 1))
    if _any(pc.starts_with(names, "/")) or _any(pc.match_substring(names, "..")):
        return None
    parts = pc.extract_regex(names, _SPLIT)
    return None if parts.null_count else (parts.field(0), pc.ascii_lower(parts.field(1)))


def _any(mask: Any) -> bool:
    return bool(pc.any(mask, min_count=0).as_py())


def _is_unique(keys: Any) -> bool:
    """Keys that rise are; others are counted."""
    if not _any(pc.less_equal(keys[1:], keys[:-1])):
        return True
    return bool(pc.count_distinct(keys).as_py() == len(keys))
