"""The keys of samples, also where they are stored among their values.

Stands beside the sources, whose `locate` reads nothing.  Invariant: they are those that `samples`
gives; a sample that cannot be read has the one of `locate`.
"""

from __future__ import annotations

import numpy as np

from iopipe.errors import DataError
from iopipe.protocols import Int64Array, Source, Store


def keys_of(source: Source, ids: Int64Array, store: Store) -> list[str]:
    """A source whose keys have to be read gives them as `stored_keys`."""
    read = getattr(source, "stored_keys", None)
    if read is None:
        return [source.locate(sample).key for sample in ids.tolist()]
    try:
        found: list[str] = read(ids, store)
        return found
    except DataError:
        if len(ids) == 1:
            return [source.locate(int(ids[0])).key]
        half = len(ids) // 2
        return [key for part in np.split(ids, [half]) for key in keys_of(source, part, store)]
